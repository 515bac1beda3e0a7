// All rows at once draw what the sampler of one row draws.
#include "qlora/generate/device_sampler.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "qlora/generate/sampler.h"

namespace qlora {
namespace {

TEST(DeviceSampler, DrawsWhatTheSamplerOfOneRowDraws) {
  constexpr std::int64_t kRows = 7, kVocabulary = 300, kSteps = 12;
  std::vector<GenerateOptions> all(8);
  all[1].repetition_penalty = 1.7;
  all[2].temperature = 0.8;
  all[3].temperature = 1.3, all[3].top_k = 0;
  all[4].temperature = 1.3, all[4].top_k = 0, all[4].top_p = 0.6;
  all[5].temperature = 2.0, all[5].top_k = 20, all[5].min_p = 0.1;
  all[6].temperature = 1.1, all[6].top_k = 1000, all[6].top_p = 0.9, all[6].min_p = 0.02;
  all[6].repetition_penalty = 0.7;
  all[7].temperature = 0.5, all[7].top_k = 5, all[7].top_p = 0.01;
  at::manual_seed(8);
  for (std::size_t o = 0; o < all.size(); ++o) {
    SCOPED_TRACE("options " + std::to_string(o));
    const Sampler one(all[o], 42);
    DeviceSampler many(all[o], 42, kRows + 2, kVocabulary, at::kCPU);
    std::vector<std::vector<std::int32_t>> seen;
    std::vector<DeviceSampler::Draw> draws;
    for (std::int64_t r = 0; r < kRows; ++r) {
      seen.push_back({static_cast<std::int32_t>(r), 5, 250});
      draws.push_back({kRows - r, static_cast<std::uint64_t>(100 + r), 0});
      many.begin(kRows - r, std::vector<std::int32_t>{1, 2, 3});  // an earlier row's
      many.begin(kRows - r, seen.back());
    }
    for (std::uint64_t step = 0; step < kSteps; ++step) {
      at::Tensor logits = at::randn({kRows, kVocabulary}) * 3.0;
      const at::Tensor got = many.next(logits.clone(), draws);
      for (std::size_t r = 0; r < kRows; ++r) {
        float* row = logits.mutable_data_ptr<float>() + r * kVocabulary;
        const std::int32_t want = one.next({row, kVocabulary}, seen[r], draws[r].row, step);
        EXPECT_EQ(got[static_cast<std::int64_t>(r)].item<std::int64_t>(), want) << "row " << r << ", step " << step;
        seen[r].push_back(want);
        ++draws[r].position;
      }
    }
  }
}

// Of equals the lower id comes first, as in the host's order.
TEST(DeviceSampler, OrdersEqualsByTheirIds) {
  for (const std::int64_t top_k : {0, 4}) {
    GenerateOptions options;
    options.temperature = 1.0;
    options.top_k = top_k;
    const Sampler one(options, 1);
    DeviceSampler many(options, 1, 1, 4, at::kCPU);
    for (std::uint64_t position = 0; position < 50; ++position) {
      at::Tensor logits = at::tensor({1.0F, 2.0F, 1.0F, 2.0F}).unsqueeze(0);
      const auto got = many.next(logits.clone(), {{0, 0, position}}).item<std::int64_t>();
      EXPECT_EQ(got, one.next({logits.mutable_data_ptr<float>(), 4}, {}, 0, position));
    }
  }
}

}  // namespace
}  // namespace qlora
