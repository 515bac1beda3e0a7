// A training step on the GPU: the losses and gradients of the CPU, with and without CUDA graphs, whatever waits in host
// memory.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "qlora/nn/kernels.h"
#include "qlora/nn/program_runner.h"
#include "qlora/train/device_batch.h"
#include "qlora/train/trainer.h"

#include "support/gpu.h"
#include "train/fixtures.h"

namespace qlora {
namespace {

double distance(const at::Tensor& got, const at::Tensor& want) {
  const at::Tensor reference = want.to(at::kCPU, at::kDouble);
  return ((got.to(at::kCPU, at::kDouble) - reference).norm() / reference.norm()).item<double>();
}

ModelConfig small_config() {
  ModelConfig c = tiny_config("qwen2");
  c.hidden = 64;
  c.intermediate = 96;
  c.head_dim = 16;
  c.vocabulary = 101;
  return c;
}

// Weights of a fixed seed; B of the adapters is not zero, so that every gradient is there.
std::unique_ptr<Decoder> decoder_on(at::Device device, Dtype dtype, double dropout, std::int64_t layers = 2) {
  TrainingPlan plan;
  plan.lora = [dropout](const std::string& module) {
    return module.ends_with("_proj") ? std::optional(LoraSettings{8, 2.0, dropout}) : std::nullopt;
  };
  plan.seed = 11;
  ModelConfig config = small_config();
  config.layers = layers;
  auto decoder = std::make_unique<Decoder>(
      config, std::make_shared<WeightStore>(device, dtype, WeightPolicy{/*quantize=*/true}), plan);
  at::manual_seed(5);
  for (const std::string& name : decoder->missing()) {
    const Shape& shape = decoder->store().member(name).shape;
    decoder->put(name, shape.size() > 1 ? at::randn(shape) * 0.1 : at::ones(shape));
  }
  decoder->parameters().values().copy_(at::randn({decoder->parameters().size()}) * 0.1);
  decoder->parameters().refresh_compute();
  return decoder;
}

struct StepResult {
  std::vector<double> losses;
  at::Tensor gradients;
};

// Several micro-batches of two shapes, one after another, so that graphs are captured and replayed.
StepResult run(Decoder& decoder, bool graphs, std::size_t* captured = nullptr, Keep keep = Keep::kAll) {
  const PreparedSet set = testing::rows_of({9, 30, 17, 25, 31, 8, 21, 19, 12, 40, 40, 40});
  const auto& blocks = decoder.blocks(HeadKind::kLoss);
  ProgramCache programs(blocks, Pass::kTraining, uniform_keep(blocks, keep), decoder.device());
  ProgramRunner runner(programs, decoder.store(), graphs);
  StepResult result;
  decoder.parameters().zero_grad();
  const std::vector<std::vector<std::uint32_t>> batches = {{9, 10, 11}, {0, 1, 2},   {3, 4},    {5, 6, 7, 8},
                                                           {10, 9, 11}, {11, 10, 9}, {2, 1, 0}, {1, 0, 2}};
  for (std::size_t i = 0; i < batches.size(); ++i) {
    const Batch batch = to_device_batch(pack_rows(set, batches[i], static_cast<std::int64_t>(i)), 100, i,
                                        /*training=*/true, decoder.device());
    result.losses.push_back(runner.run(batch).item<double>());
  }
  if (captured != nullptr) *captured = runner.graph_count();
  result.gradients = decoder.parameters().grads().cpu();
  return result;
}

class StepOnGpu : public GpuTest {};

TEST_F(StepOnGpu, HasTheLossesAndGradientsOfTheCpu) {
  for (const double dropout : {0.0, 0.2}) {
    const StepResult want = run(*decoder_on(at::kCPU, at::kFloat, dropout), false);
    for (const Dtype dtype : {at::kFloat, at::kBFloat16}) {
      const StepResult got = run(*decoder_on({at::kCUDA, 0}, dtype, dropout), false);
      const bool exact = dtype == at::kFloat;
      for (std::size_t i = 0; i < want.losses.size(); ++i) {
        EXPECT_NEAR(got.losses[i], want.losses[i], (exact ? 1e-5 : 2e-2) * want.losses[i]) << i << " " << dtype;
      }
      EXPECT_LE(distance(got.gradients, want.gradients), exact ? 1e-5 : 6e-2) << dtype << " dropout " << dropout;
    }
  }
}

TEST_F(StepOnGpu, HasTheNumbersOfTheAtenForms) {
  const StepResult got = run(*decoder_on({at::kCUDA, 0}, at::kFloat, 0.2), false);
  const gpu::AtenForms aten;
  const StepResult want = run(*decoder_on({at::kCUDA, 0}, at::kFloat, 0.2), false);
  EXPECT_LE(distance(got.gradients, want.gradients), 1e-5);
}

TEST_F(StepOnGpu, GraphsChangeNoBit) {
  at::globalContext().setDeterministicAlgorithms(true, false);
  for (const Dtype dtype : {at::kHalf, at::kBFloat16}) {
    const StepResult without = run(*decoder_on({at::kCUDA, 0}, dtype, 0.2), false);
    std::size_t captured = 0;
    const StepResult with = run(*decoder_on({at::kCUDA, 0}, dtype, 0.2), true, &captured);
    EXPECT_GE(captured, 2U);
    EXPECT_EQ(with.losses, without.losses) << dtype;
    EXPECT_TRUE(with.gradients.equal(without.gradients)) << dtype;
  }
  at::globalContext().setDeterministicAlgorithms(false, false);
}

TEST_F(StepOnGpu, WhatWaitsOnTheHostChangesNoBit) {
  at::globalContext().setDeterministicAlgorithms(true, false);
  for (const Dtype dtype : {at::kHalf, at::kBFloat16}) {
    const StepResult without = run(*decoder_on({at::kCUDA, 0}, dtype, 0.2, 4), false);
    for (const bool graphs : {false, true}) {
      for (const Keep keep : {Keep::kInputOnly, Keep::kInputOnHost}) {
        const auto decoder = decoder_on({at::kCUDA, 0}, dtype, 0.2, 4);
        EXPECT_GT(decoder->movable_embedding_bytes(), 0);
        if (keep == Keep::kInputOnHost) decoder->move_embedding_to_host();
        std::size_t captured = 0;
        const StepResult with = run(*decoder, graphs, &captured, keep);
        EXPECT_EQ(captured >= 2U, graphs);
        EXPECT_EQ(with.losses, without.losses) << dtype << " graphs " << graphs;
        EXPECT_TRUE(with.gradients.equal(without.gradients)) << dtype << " graphs " << graphs;
      }
    }
  }
  at::globalContext().setDeterministicAlgorithms(false, false);
}

TEST_F(StepOnGpu, ATableOnTheHostTakesNoBytesOfTheDevice) {
  const auto decoder = decoder_on({at::kCUDA, 0}, at::kBFloat16, 0.0);
  const std::int64_t before = decoder->store().bytes(), table = decoder->movable_embedding_bytes();
  EXPECT_EQ(table, 101 * 64 * 2);
  decoder->move_embedding_to_host();
  EXPECT_EQ(decoder->store().bytes(), before - table);
  EXPECT_EQ(decoder->store().planned_bytes(), before - table);
}

// Rows that are long enough for cuDNN, whose backward pass takes more workspace.
TEST_F(StepOnGpu, ALeanRunHasTheSameGradientsInLessMemory) {
  const PreparedSet set = testing::rows_of({1500, 700, 1300});
  const BatchOptions batches{3, 1, false, 0, true, 7};
  const auto decoder = decoder_on({at::kCUDA, 0}, at::kBFloat16, 0.0);
  TrainOptions options;
  const auto plan_within = [&](std::int64_t bytes) {
    options.max_memory_gib = (static_cast<double>(bytes) + 0.5) / (1 << 30) + 0.5;
    return plan_run(*decoder, options, set, batches, 1);
  };
  options.gradient_checkpointing = Checkpointing::kOff;
  const RunPlan wide = plan_within(std::int64_t{1} << 34);
  const RunPlan lean = plan_within(wide.bytes.total() - decoder->movable_embedding_bytes() - wide.bytes.optimizer - 1);
  EXPECT_FALSE(wide.lean);
  ASSERT_TRUE(lean.lean) << lean.bytes.text();
  EXPECT_LT(lean.bytes.workspaces, wide.bytes.workspaces);
  const auto gradients = [&](const RunPlan& plan) {
    ProgramCache programs(decoder->blocks(HeadKind::kLoss), Pass::kTraining, plan.keep, decoder->device());
    Batch batch = to_device_batch(plan.largest.front().batch, 100, 0, /*training=*/true, decoder->device());
    batch.lean = plan.lean;
    decoder->parameters().zero_grad();
    programs.program_for(batch).run(batch);
    return decoder->parameters().grads().cpu();
  };
  EXPECT_LE(distance(gradients(lean), gradients(wide)), 2e-2);
}

// The levels that a run takes by itself, as its limit falls.
TEST_F(StepOnGpu, RunsUnderALimitHaveTheAdapterOfThoseWithout) {
  at::globalContext().setDeterministicAlgorithms(true, false);
  const PreparedSet set = testing::rows_of({9, 30, 17, 25, 31, 8, 21, 19, 12, 40, 40, 40});
  TrainOptions options;
  options.max_steps = 8;
  options.logging_steps = 1;
  options.learning_rate = 1e-2;
  options.deterministic = true;
  options.save_strategy = Strategy::kNo;
  const BatchOptions batches{3, 2, false, 0, true, 7};
  const auto adapter_within = [&](std::optional<double> gib) {
    TemporaryFolder folder;
    const auto decoder = decoder_on({at::kCUDA, 0}, at::kBFloat16, 0.2, 4);
    options.max_memory_gib = gib;
    TrainerSettings settings{options, batches, folder.path(), Json::object(), [](const auto&) {}, {}, {}, {}, 0};
    Trainer(*decoder, set, nullptr, settings).run();
    return decoder->parameters().values().cpu();
  };
  const at::Tensor free = adapter_within(std::nullopt);
  constexpr double kGib = 1024.0 * 1024.0 * 1024.0;
  const auto decoder = decoder_on({at::kCUDA, 0}, at::kBFloat16, 0.2, 4);
  const auto plan_within = [&](std::int64_t bytes) {
    options.max_memory_gib = (static_cast<double>(bytes) + 0.5) / kGib + 0.5;
    return plan_run(*decoder, options, set, batches, 8);
  };
  options.gradient_checkpointing = Checkpointing::kOn;
  const std::int64_t recomputing = plan_within(std::int64_t{1} << 34).bytes.total();
  options.gradient_checkpointing = Checkpointing::kAuto;
  for (const std::int64_t less : {std::int64_t{1}, decoder->movable_embedding_bytes() + 1}) {
    const RunPlan plan = plan_within(recomputing - less);
    EXPECT_GT(plan.host.total(), 0);
    EXPECT_TRUE(adapter_within(options.max_memory_gib).equal(free)) << plan.host.text();
  }
  at::globalContext().setDeterministicAlgorithms(false, false);
}

}  // namespace
}  // namespace qlora
