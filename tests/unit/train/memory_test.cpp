#include "qlora/train/memory.h"

#include <algorithm>

#include <gtest/gtest.h>

#include "qlora/core/error.h"

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

constexpr double kGib = 1024.0 * 1024.0 * 1024.0;

// A larger model with an output head of its own, on a GPU that need not be there.
std::unique_ptr<Decoder> large_decoder(at::Device device, bool tied = false) {
  TrainingPlan plan;
  plan.lora = [](const std::string& module) {
    return module.ends_with("_proj") ? std::optional(LoraSettings{64, 2.0, 0.0}) : std::nullopt;
  };
  ModelConfig c = tiny_config();
  c.hidden = 1024;
  c.intermediate = 2816;
  c.head_dim = 256;
  c.vocabulary = 20000;
  c.layers = 6;
  c.tied_embeddings = tied;
  return std::make_unique<Decoder>(
      c, std::make_shared<WeightStore>(device, at::kBFloat16, WeightPolicy{.quantize = true, .planned = true}), plan);
}

class HostLevels : public ::testing::Test {
 protected:
  // The plan where `bytes` may be used besides what CUDA takes; 0: no limit.
  RunPlan plan_within(std::int64_t bytes, Checkpointing checkpointing = Checkpointing::kAuto) const {
    TrainOptions options;
    options.gradient_checkpointing = checkpointing;
    if (bytes > 0) options.max_memory_gib = (static_cast<double>(bytes) + 0.5) / kGib + 0.5;
    return plan_run(*decoder_, options, set_, {2, 1, false, 0, true, 7}, 2);
  }
  static std::int64_t count(const RunPlan& plan, Keep policy) {
    return std::count(plan.keep.begin(), plan.keep.end(), policy);
  }

  std::unique_ptr<Decoder> decoder_ = large_decoder({at::kCUDA, 0});
  PreparedSet set_ = rows_of({600, 600, 600, 600});
};

TEST_F(HostLevels, AreTakenOneAfterTheOtherAsTheLimitFalls) {
  const RunPlan free = plan_within(0);
  EXPECT_EQ(free.host.total(), 0);
  EXPECT_EQ(count(free, Keep::kAll), 8);
  const RunPlan recomputing = plan_within(0, Checkpointing::kOn);
  std::int64_t limit = recomputing.bytes.total();
  EXPECT_EQ(plan_within(limit).host.total(), 0);
  EXPECT_EQ(count(plan_within(limit), Keep::kInputOnly), 6);

  const std::int64_t table = decoder_->movable_embedding_bytes();
  EXPECT_EQ(table, 20000 * 1024 * 2);
  const RunPlan embedding = plan_within(limit - 1);
  EXPECT_EQ(embedding.host.to_json(), (HostBytes{.embedding = table}.to_json()));
  EXPECT_EQ(embedding.bytes.weights, free.bytes.weights - table);
  EXPECT_LT(count(embedding, Keep::kInputOnly), 6) << "what the table leaves is used to compute less again";
  limit -= table;
  EXPECT_EQ(plan_within(limit).host.to_json(), embedding.host.to_json());
  EXPECT_FALSE(plan_within(limit).pages_optimizer);

  const RunPlan paged = plan_within(limit - 1);
  EXPECT_TRUE(paged.pages_optimizer);
  EXPECT_EQ(paged.host.optimizer, free.bytes.optimizer);
  EXPECT_EQ(paged.host.block_inputs, 0);
  EXPECT_LT(paged.bytes.optimizer, free.bytes.optimizer);
  limit -= free.bytes.optimizer - paged.bytes.optimizer;
  EXPECT_EQ(plan_within(limit).host.block_inputs, 0);

  const RunPlan one = plan_within(limit - 1);
  EXPECT_EQ(count(one, Keep::kInputOnHost), 1);
  EXPECT_EQ(count(one, Keep::kInputOnly), 5);
  EXPECT_EQ(one.host.block_inputs, one.largest.front().shape.tokens * 1024 * 2);
  for (std::int64_t less = limit; less > limit / 2; less -= limit / 100) {  // to the smallest that there is
    try {
      const RunPlan plan = plan_within(less - 1);
      EXPECT_LE(plan.bytes.total(), less - 1);
      EXPECT_GE(count(plan, Keep::kInputOnHost), 1);
    } catch (const OutOfMemory& error) {
      EXPECT_NE(std::string(error.what()).find("max_memory_gib: "), std::string::npos) << error.what();
      return;
    }
  }
  FAIL() << "half of the bytes cannot suffice";
}

TEST_F(HostLevels, LeaveTheBlocksAloneWhereNothingMayBeComputedAgain) {
  const std::int64_t all = plan_within(0, Checkpointing::kOff).bytes.total();
  const RunPlan plan = plan_within(all - 1, Checkpointing::kOff);
  EXPECT_GT(plan.host.embedding, 0);
  EXPECT_EQ(count(plan, Keep::kAll), 8);
  const RunPlan two = plan_within(all - plan.host.embedding - 1, Checkpointing::kOff);
  EXPECT_TRUE(two.pages_optimizer);
  EXPECT_THROW(plan_within(two.bytes.total() - 1, Checkpointing::kOff), OutOfMemory);
}

TEST_F(HostLevels, SendInputsOfAskedRecomputationToo) {
  RunPlan plan = plan_within(0, Checkpointing::kOn);
  for (int level = 0; level < 3; ++level) plan = plan_within(plan.bytes.total() - 1, Checkpointing::kOn);
  EXPECT_GT(plan.host.embedding, 0);
  EXPECT_TRUE(plan.pages_optimizer);
  EXPECT_EQ(count(plan, Keep::kInputOnHost), 1);
  EXPECT_EQ(count(plan, Keep::kInputOnly), 5);
}

TEST_F(HostLevels, NeedATableThatIsFrozenAndNotTheHead) {
  decoder_ = large_decoder({at::kCUDA, 0}, /*tied=*/true);
  EXPECT_EQ(decoder_->movable_embedding_bytes(), 0);
  const RunPlan plan = plan_within(plan_within(0, Checkpointing::kOn).bytes.total() - 1);
  EXPECT_EQ(plan.host.embedding, 0);
  EXPECT_TRUE(plan.pages_optimizer);
}

TEST_F(HostLevels, AreNoneOnTheCpuWhichIsTheHost) {
  decoder_ = large_decoder(at::kCPU);
  TrainOptions options;
  const auto planned = [&] { return plan_run(*decoder_, options, set_, {2, 1, false, 0, true, 7}, 2); };
  options.gradient_checkpointing = Checkpointing::kOn;
  const RunPlan least = planned();
  options.max_memory_gib = static_cast<double>(least.bytes.total() - 1) / kGib;
  EXPECT_THROW(planned(), OutOfMemory);
}

TEST_F(HostLevels, AreNamedInThePlan) {
  const std::int64_t limit = plan_within(0, Checkpointing::kOn).bytes.total();
  EXPECT_EQ(plan_within(limit - 1).host.text(), "embedding 0.038 GiB");
  EXPECT_EQ((HostBytes{1 << 30, 1 << 29, 1 << 28}.text()), "embedding 1.000, optimizer 0.500, block_inputs 0.250 GiB");
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
