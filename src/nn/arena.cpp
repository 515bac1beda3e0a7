#include "qlora/nn/arena.h"

#include <algorithm>
#include <numeric>

namespace qlora {
namespace {

bool lifetimes_meet(const ArenaBuffer& a, const ArenaBuffer& b) {
  return a.first <= b.last && b.first <= a.last;
}

std::int64_t aligned(std::int64_t bytes) {
  return (bytes + kArenaAlignment - 1) / kArenaAlignment * kArenaAlignment;
}

// The lowest offset at which `bytes` fit between `placed`, which is sorted by offset.
std::int64_t lowest_gap(const std::vector<ArenaBuffer*>& placed, const ArenaBuffer& buffer) {
  std::int64_t offset = 0;
  for (const ArenaBuffer* other : placed) {
    if (!lifetimes_meet(*other, buffer)) continue;
    if (other->offset >= offset + aligned(buffer.bytes)) break;
    offset = std::max(offset, other->offset + aligned(other->bytes));
  }
  return offset;
}

}  // namespace

std::int64_t lay_out(std::vector<ArenaBuffer>& buffers) {
  std::vector<ArenaBuffer*> by_size;
  for (ArenaBuffer& buffer : buffers) by_size.push_back(&buffer);
  std::stable_sort(by_size.begin(), by_size.end(),
                   [](const ArenaBuffer* a, const ArenaBuffer* b) { return a->bytes > b->bytes; });
  std::vector<ArenaBuffer*> placed;
  std::int64_t total = 0;
  for (ArenaBuffer* buffer : by_size) {
    buffer->offset = lowest_gap(placed, *buffer);
    total = std::max(total, buffer->offset + aligned(buffer->bytes));
    const auto where =
        std::upper_bound(placed.begin(), placed.end(), buffer,
                         [](const ArenaBuffer* a, const ArenaBuffer* b) { return a->offset < b->offset; });
    placed.insert(where, buffer);
  }
  return total;
}

}  // namespace qlora
