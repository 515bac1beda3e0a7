#include "qlora/train/memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <string>

#include <c10/core/CachingDeviceAllocator.h>

#include "qlora/nn/program_cache.h"

namespace qlora {
namespace {

struct Candidate {
  BatchShape shape;
  std::vector<std::uint32_t> rows;
};

bool reaches(const BatchShape& a, const BatchShape& b) {
  return a.tokens >= b.tokens && a.labelled >= b.labelled;
}

void consider(const PreparedSet& set, const std::vector<std::uint32_t>& rows, at::Device device,
              std::vector<Candidate>& largest) {
  std::int64_t tokens = 0, targets = 0;
  for (const std::uint32_t row : rows) {
    tokens += set.length(row);
    targets += set.targets(row);
  }
  const BatchShape shape = bucket_shape(tokens, targets, device);
  if (std::any_of(largest.begin(), largest.end(), [&](const Candidate& c) { return reaches(c.shape, shape); })) return;
  std::erase_if(largest, [&](const Candidate& c) { return reaches(shape, c.shape); });
  largest.push_back({shape, rows});
}

constexpr std::int64_t kUnlimited = std::numeric_limits<std::int64_t>::max();

// The number behind `label` in a file of /proc or /sys; none where it says "max" or is not there.
std::optional<std::int64_t> number_in(const char* path, const std::string& label = "") {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(label) && line != "max") return std::strtoll(line.c_str() + label.size(), nullptr, 10);
  }
  return std::nullopt;
}

}  // namespace

std::vector<LargestBatch> largest_batches(const PreparedSet& set, const BatchOptions& options, std::int64_t steps,
                                          at::Device device) {
  std::vector<Candidate> largest;
  std::int64_t left = steps;
  for (std::int64_t e = 0; left > 0; ++e) {
    const Epoch epoch(set, options, e);
    for (std::int64_t s = 0; s < epoch.steps() && left > 0; ++s, --left) {
      for (const auto& rows : epoch.step(s).micro_batches) consider(set, rows, device, largest);
    }
  }
  std::sort(largest.begin(), largest.end(),
            [](const auto& a, const auto& b) { return a.shape.tokens > b.shape.tokens; });
  std::vector<LargestBatch> batches;
  for (const Candidate& c : largest) batches.push_back({c.shape, pack_rows(set, c.rows, 0)});
  return batches;
}

std::int64_t arena_bytes(const std::vector<Block>& blocks, Keep keep, const std::vector<LargestBatch>& batches) {
  std::int64_t bytes = 0;
  for (const LargestBatch& b : batches) {
    bytes = std::max(bytes, Program(blocks, b.shape, Pass::kTraining, uniform_keep(blocks, keep)).arena_bytes());
  }
  return bytes;
}

Keep choose_keep(Checkpointing checkpointing, const std::vector<Block>& blocks,
                 const std::vector<LargestBatch>& batches, std::int64_t budget) {
  if (checkpointing == Checkpointing::kOn) return Keep::kInputOnly;
  if (checkpointing == Checkpointing::kOff) return Keep::kAll;
  for (const Keep keep : {Keep::kAll, Keep::kExpensive}) {
    if (arena_bytes(blocks, keep, batches) <= budget) return keep;
  }
  return Keep::kInputOnly;
}

std::int64_t free_memory(at::Device device) {
  if (!device.is_cpu()) {
    return static_cast<std::int64_t>(c10::getDeviceAllocator(device.type())->getMemoryInfo(device.index()).first);
  }
  constexpr std::int64_t kKib = 1024;
  const std::int64_t machine = number_in("/proc/meminfo", "MemAvailable:").value_or(kUnlimited / kKib) * kKib;
  const auto limit = number_in("/sys/fs/cgroup/memory.max");
  if (!limit) return machine;
  const std::int64_t used = number_in("/sys/fs/cgroup/memory.current").value_or(0);
  return std::min(machine, std::max<std::int64_t>(0, *limit - used));
}

}  // namespace qlora
