#include "qlora/train/adamw_8bit.h"

#include <algorithm>
#include <array>

#include "qlora/core/parallel.h"

namespace qlora {
namespace {

void step_block(const AdamW8bitTensor& t, std::int64_t block, const AdamWScalars& s, float learning_rate, float decay) {
  const float* map = signed_dynamic_map().data();
  const float* unsigned_map = unsigned_dynamic_map().data();
  const std::int64_t begin = block * kAdamWBlock;
  const std::int64_t count = std::min(kAdamWBlock, t.count - begin);
  std::array<Moments, kAdamWBlock> moments;
  float top_first = 0.0F;
  float top_second = 0.0F;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t at = begin + i;
    const Moments old{map[t.first[at]] * t.first_absmax[block], unsigned_map[t.second[at]] * t.second_absmax[block]};
    const Moments now = next_moments(old, t.gradients[at], s);
    top_first = std::max(top_first, std::fabs(now.first));
    top_second = std::max(top_second, now.second);
    t.values[at] = adamw_8bit_update(t.values[at], now, s, learning_rate, decay);
    moments[static_cast<std::size_t>(i)] = now;
  }
  t.first_absmax[block] = top_first;
  t.second_absmax[block] = top_second;
  for (std::int64_t i = 0; i < count; ++i) {
    const Moments& now = moments[static_cast<std::size_t>(i)];
    t.first[begin + i] = first_moment_code(now.first, top_first, map);
    t.second[begin + i] = dynamic_code(now.second / top_second, unsigned_map);
  }
}

}  // namespace

void adamw_8bit_step(const AdamW8bitTensor& tensor, const AdamWScalars& scalars, float learning_rate, float decay) {
  constexpr std::int64_t kGrain = 64;
  parallel_for((tensor.count + kAdamWBlock - 1) / kAdamWBlock, kGrain, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t block = first; block < last; ++block) step_block(tensor, block, scalars, learning_rate, decay);
  });
}

}  // namespace qlora
