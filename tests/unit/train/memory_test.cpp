#include "qlora/train/memory.h"

#include <gtest/gtest.h>

#include "train/fixtures.h"

namespace qlora {
namespace {

using testing::rows_of;
using testing::tiny_decoder;

std::unique_ptr<Decoder> planned_decoder(at::Device device) {
  TrainingPlan plan;
  plan.lora = [](const std::string& module) {
    return module.ends_with("_proj") ? std::optional(LoraSettings{2, 2.0, 0.0}) : std::nullopt;
  };
  ModelConfig config = tiny_config();
  config.tied_embeddings = true;
  return std::make_unique<Decoder>(
      config, std::make_shared<WeightStore>(device, at::kFloat, WeightPolicy{.planned = true}), plan);
}

MemoryBytes planned_bytes(const Decoder& decoder) {
  return plan_run(decoder, TrainOptions{}, rows_of({9, 5, 30, 12}), BatchOptions{}, 2).bytes;
}

TEST(Plan, IsTheSameWithoutWeights) {
  EXPECT_EQ(planned_bytes(*planned_decoder(at::kCPU)).to_json(), planned_bytes(*tiny_decoder()).to_json());
}

// On a machine without a GPU: every tensor made on it would throw. With one nothing may be taken from it either.
TEST(Plan, TouchesNoDevice) {
  const auto decoder = planned_decoder(at::Device(at::kCUDA, 0));
  const MemoryBytes bytes = planned_bytes(*decoder);
  EXPECT_EQ(bytes.weights, planned_bytes(*planned_decoder(at::kCPU)).weights);
  EXPECT_GT(bytes.activations, 0);
  EXPECT_TRUE(decoder->parameters().values().is_meta());
}

}  // namespace
}  // namespace qlora
