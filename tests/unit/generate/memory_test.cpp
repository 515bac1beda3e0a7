// What answering is said to take is what is taken.
#include "qlora/generate/memory.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "qlora/generate/row_batch.h"
#include "qlora/nn/kv_cache.h"
#include "qlora/nn/program_cache.h"

#include "support/tiny_model.h"

namespace qlora {
namespace {

std::int64_t bytes_of(const KvCache& cache, std::int64_t layers) {
  std::int64_t bytes = 0;
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    for (const at::Tensor& tensor : {cache.keys(layer), cache.values(layer), cache.state(layer)})
      bytes += tensor.defined() ? static_cast<std::int64_t>(tensor.nbytes()) : 0;
  }
  return bytes;
}

TEST(GenerateMemory, CacheAndArenaAreCounted) {
  const Decoder decoder(tiny_config(), std::make_shared<WeightStore>(at::kCPU, at::kBFloat16, WeightPolicy{}),
                        TrainingPlan{});
  const PassSize pass{40, 6, 5, 17};
  PassSize without_cache = pass;
  without_cache.rows = 0;
  const std::int64_t computed = pass_bytes(decoder, HeadKind::kLogits, without_cache);
  const auto& blocks = decoder.blocks(HeadKind::kLogits);
  const Program program(blocks, bucket_shape(40, 6), Pass::kForward, uniform_keep(blocks, Keep::kAll));
  EXPECT_GE(computed, program.arena_bytes());
  const auto layers = decoder.cache_layers();
  const KvCache cache(layers, 5, 17, at::kCPU, at::kBFloat16);
  EXPECT_EQ(pass_bytes(decoder, HeadKind::kLogits, pass) - computed, bytes_of(cache, std::ssize(layers)));
}

TEST(GenerateMemory, MoreRowsAndLongerAnswersTakeMore) {
  const Decoder decoder(tiny_config(), std::make_shared<WeightStore>(at::kCPU, at::kFloat, WeightPolicy{}),
                        TrainingPlan{});
  GenerateOptions options;
  options.max_new_tokens = 8;
  const std::int64_t few = generator_bytes(decoder, options, 2, 10);
  EXPECT_GT(few, 0);
  EXPECT_GT(generator_bytes(decoder, options, 30, 10), few);
  options.max_new_tokens = 80;
  EXPECT_GT(generator_bytes(decoder, options, 2, 10), few);
  const std::int64_t most = generator_bytes(decoder, options, 30, 10);
  options.batch_size = 1;
  EXPECT_LT(generator_bytes(decoder, options, 30, 10), most);
  EXPECT_EQ(generator_bytes(decoder, options, 0, 0), 0);
  options.batch_size.reset();
  EXPECT_EQ(answer_slots(decoder, options, 1000, 10), kMostAnswers);
  EXPECT_GT(choice_scorer_bytes(decoder, {}, 9, 50), choice_scorer_bytes(decoder, {}, 2, 50));
}

}  // namespace
}  // namespace qlora
