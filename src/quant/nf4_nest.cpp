// Double quantization: the scales of NF4 blocks in 8 bits.
#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/core/parallel.h"
#include "qlora/quant/dynamic_map.h"
#include "qlora/quant/nf4.h"
#include "qlora/quant/nf4_arithmetic.h"

namespace qlora {
namespace {

// [n] -> 1: the upper half is added onto the lower until one is left.
float tree_sum(float* values, std::int64_t count) {
  for (std::int64_t half = count / 2; half > 0; half /= 2) {
    for (std::int64_t i = 0; i < half; ++i) values[i] += values[half + i];
  }
  return values[0];
}

// How torch's reduction kernel spreads a sum over `threads` threads in each of `grid` blocks.
struct Spread {
  std::int64_t vector;  // values a load
  std::int64_t threads;
  std::int64_t grid;

  explicit Spread(std::int64_t count) {
    constexpr std::int64_t kMultiprocessors = 132;  // H100 and H200
    vector = count > 128 ? 4 : 1;
    threads = std::min<std::int64_t>(512, std::bit_floor(static_cast<std::uint64_t>(count / vector)));
    const std::int64_t each = (count + threads - 1) / threads;
    const std::int64_t widest = kMultiprocessors * (2048 / threads);
    grid = each < 256 ? 1 : std::max(std::min(widest, (each + 15) / 16), (each + 255) / 256);
  }
};

// Four running sums a thread, then over a thread's four, over a block's threads, over the blocks. fp32 addition is not
// associative: only this order gives the GPU's bits.
float gpu_sum(const float* x, std::int64_t count) {
  const Spread spread(count);
  const std::int64_t width = spread.grid * spread.threads;
  std::vector<float> sums(static_cast<std::size_t>(4 * width));
  const auto lane = [&](std::int64_t v) { return sums.data() + v * width; };
  const std::int64_t loads = count / spread.vector;
  for (std::int64_t begin = 0, turn = 0; begin < loads; begin += width, ++turn) {
    const std::int64_t end = std::min(loads, begin + width);
    for (std::int64_t i = begin; i < end; ++i) {
      if (spread.vector == 1) {
        lane(turn % 4)[i - begin] += x[i];
      } else {
        for (std::int64_t v = 0; v < 4; ++v) lane(v)[i - begin] += x[4 * i + v];
      }
    }
  }
  for (std::int64_t i = loads * spread.vector; i < count; ++i) lane(0)[i - loads * spread.vector] += x[i];

  for (std::int64_t v = 1; v < 4; ++v) {
    for (std::int64_t i = 0; i < width; ++i) lane(0)[i] += lane(v)[i];
  }
  if (spread.grid == 1) return tree_sum(lane(0), spread.threads);
  std::vector<float> partial(static_cast<std::size_t>(spread.threads));
  for (std::int64_t g = 0; g < spread.grid; ++g) {
    partial[static_cast<std::size_t>(g % spread.threads)] += tree_sum(lane(0) + g * spread.threads, spread.threads);
  }
  return tree_sum(partial.data(), spread.threads);
}

}  // namespace

void nf4_refuse_nesting(std::string_view name) {
  throw DataError(
      fmt::format("{}: the sum of its blocks' largest values leaves fp32; it cannot be doubly quantized", name));
}

float nf4_nest_absmax(const float* absmax, std::int64_t blocks, std::uint8_t* absmax_codes, float* nested_absmax,
                      std::string_view name) {
  if (blocks == 0) return 0.0F;
  const float offset = gpu_sum(absmax, blocks) * (1.0F / static_cast<float>(blocks));
  if (!std::isfinite(offset)) nf4_refuse_nesting(name);
  const float* map = signed_dynamic_map().data();
  parallel_for(nf4_nested_blocks(blocks), 16, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t n = first; n < last; ++n) {
      const std::int64_t begin = n * kNf4NestedBlock;
      const std::int64_t end = std::min(blocks, begin + kNf4NestedBlock);
      float top = 0.0F;
      for (std::int64_t b = begin; b < end; ++b) top = std::max(top, std::fabs(nf4_flush(absmax[b] - offset)));
      nested_absmax[n] = top;
      const float scale = nf4_reciprocal(top);
      for (std::int64_t b = begin; b < end; ++b) {
        absmax_codes[b] = dynamic_code(nf4_flush(absmax[b] - offset) * scale, map);
      }
    }
  });
  return offset;
}

}  // namespace qlora
