// The training loop over a tiny model: what makes a step, when it evaluates, saves and stops, and where it refuses.
#include "qlora/train/trainer.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <ATen/ops/full.h>
#include <gtest/gtest.h>

#include "qlora/core/error.h"

#include "train/fixtures.h"

namespace qlora {
namespace {

namespace fs = std::filesystem;
using testing::rows_of;
using testing::tiny_decoder;

const std::vector<int> kLengths = {9, 5, 14, 7, 11, 6, 13, 8, 10, 12, 4, 9, 15, 6, 7, 11};

struct TinyRun {
  TemporaryFolder folder;
  PreparedSet train = rows_of(kLengths);
  PreparedSet eval = rows_of({8, 12, 5}, 2);
  std::unique_ptr<Decoder> decoder = tiny_decoder(0.1);
  TrainerSettings settings;

  TinyRun() {
    TrainOptions& o = settings.options;
    o.max_steps = 6;
    o.learning_rate = 5e-3;
    o.logging_steps = 1;
    o.save_strategy = Strategy::kNo;
    settings.batches = {2, 2, false, 0, true, 7};
    settings.output = folder.path();
    settings.identity = Json{{"lora_r", 2}};
    settings.save_model = [](const fs::path& path) { write_bytes(path / "model", "weights"); };
  }
  Trainer trainer() { return {*decoder, train, &eval, settings}; }
  std::vector<Json> lines() const { return read_metrics(folder.path() / "metrics.jsonl"); }
  std::vector<std::int64_t> steps_with(const char* field) const {
    std::vector<std::int64_t> steps;
    for (const Json& line : lines()) {
      if (line.contains(field)) steps.push_back(line.at("step").get<std::int64_t>());
    }
    return steps;
  }
  std::vector<std::int64_t> saved() const {
    std::vector<std::int64_t> steps;
    for (const auto& [step, path] : list_checkpoints(folder.path())) steps.push_back(step);
    return steps;
  }
};

using Steps = std::vector<std::int64_t>;

class SplitSteps : public ::testing::TestWithParam<bool> {};

TEST_P(SplitSteps, HaveTheSameLossAndGradients) {
  std::vector<double> losses, norms;
  std::vector<at::Tensor> values;
  for (const auto& [rows, micro_batches] : {std::pair{16, 1}, {8, 2}, {4, 4}, {1, 16}}) {
    TinyRun run;
    run.decoder = tiny_decoder(0.1, 0.3, GetParam());
    run.settings.options.max_steps = 1;
    run.settings.batches.batch_size = rows;
    run.settings.batches.accumulation = micro_batches;
    run.trainer().run();
    losses.push_back(run.lines().at(0).at("loss"));
    norms.push_back(run.lines().at(0).at("grad_norm"));
    values.push_back(run.decoder->parameters().grads().clone());
  }
  for (std::size_t i = 1; i < losses.size(); ++i) {
    EXPECT_NEAR(losses[i], losses[0], 1e-6);
    EXPECT_NEAR(norms[i], norms[0], 1e-5 * norms[0]);
    EXPECT_LT(values[i].sub(values[0]).norm().item<double>(), 1e-5 * values[0].norm().item<double>());
  }
}

INSTANTIATE_TEST_SUITE_P(All, SplitSteps, ::testing::Bool(), [](const auto& test) {
  return test.param ? "WithDoraNoiseAndAdaptersOnEmbeddingAndHead" : "Plain";
});

TEST(Trainer, LearnsAndCountsTokens) {
  TinyRun run;
  run.settings.options.max_steps = 40;
  run.settings.options.learning_rate = 3e-2;
  const TrainingResult result = run.trainer().run();
  const std::vector<Json> lines = run.lines();
  EXPECT_LT(lines.back().at("loss").get<double>(), 0.8 * lines.front().at("loss").get<double>());
  EXPECT_EQ(result.steps, 40);
  EXPECT_EQ(result.input_tokens, 10 * run.train.tokens());
  EXPECT_EQ(result.tokens, 10 * run.train.targets());
  EXPECT_EQ(lines.front().at("learning_rate").get<double>(), 3e-2);
  EXPECT_NEAR(lines[20].at("learning_rate").get<double>(), 1.5e-2, 1e-12);
}

TEST(Trainer, ResumesBitByBitFromEveryCheckpoint) {
  TinyRun whole;
  whole.settings.options.save_strategy = Strategy::kSteps;
  whole.settings.options.save_steps = 1;
  whole.settings.options.eval_strategy = Strategy::kSteps;
  whole.settings.options.eval_steps = 2;
  whole.trainer().run();
  for (const std::int64_t step : {1, 3, 4}) {
    TinyRun rest;
    rest.settings.options = whole.settings.options;
    Trainer trainer = rest.trainer();
    trainer.resume(whole.folder.path() / ("checkpoint-" + std::to_string(step)));
    EXPECT_EQ(trainer.steps_done(), step);
    trainer.run();
    EXPECT_TRUE(rest.decoder->parameters().values().equal(whole.decoder->parameters().values())) << step;
    EXPECT_EQ(rest.lines().back().at("eval_loss"), whole.lines().back().at("eval_loss"));
    EXPECT_EQ(rest.steps_with("loss").front(), step + 1);
  }
}

TEST(Trainer, RefusesACheckpointOfAnotherConfigByItsKeys) {
  TinyRun run;
  run.settings.options.save_strategy = Strategy::kSteps;
  run.trainer().run();
  run.settings.identity = Json{{"lora_r", 4}, {"seed", 1}};
  Trainer other = run.trainer();
  try {
    other.resume(run.folder.path() / "checkpoint-6");
    FAIL();
  } catch (const UsageError& error) {
    EXPECT_NE(std::string(error.what()).find("another lora_r, seed"), std::string::npos) << error.what();
  }
}

TEST(Trainer, EvaluatesAndSavesByStepsAndByEpochs) {
  TinyRun steps;
  steps.settings.options.eval_strategy = steps.settings.options.save_strategy = Strategy::kSteps;
  steps.settings.options.eval_steps = 2;
  steps.settings.options.save_steps = 4;
  steps.trainer().run();
  EXPECT_EQ(steps.steps_with("eval_loss"), (Steps{2, 4, 6}));
  EXPECT_EQ(steps.saved(), (Steps{4, 6}));
  TinyRun epochs;  // 4 steps an epoch
  epochs.settings.options.eval_strategy = epochs.settings.options.save_strategy = Strategy::kEpoch;
  epochs.settings.options.max_steps = -1;
  epochs.settings.options.num_train_epochs = 1.5;
  EXPECT_EQ(epochs.trainer().run().steps, 6);
  EXPECT_EQ(epochs.steps_with("eval_loss"), (Steps{4, 6}));
  EXPECT_EQ(epochs.saved(), (Steps{4, 6}));
}

TEST(Trainer, KeepsTheBestBesideTheNewest) {
  TinyRun run;
  TrainOptions& o = run.settings.options;
  o.max_steps = 12;
  o.eval_strategy = o.save_strategy = Strategy::kSteps;
  o.eval_steps = o.save_steps = 1;
  o.save_total_limit = 1;
  o.load_best_model_at_end = true;
  o.learning_rate = 0.2;
  o.lr_scheduler_type = Scheduler::kConstant;
  Trainer trainer = run.trainer();
  trainer.run();
  const TrainerState state = trainer.trainer_state();
  const auto best = state.best_global_step.get<std::int64_t>();
  ASSERT_LT(best, 12) << "a rate this high should not improve to the end";
  EXPECT_EQ(run.saved(), (Steps{best, 12}));
  double lowest = std::numeric_limits<double>::infinity();
  for (const Json& line : run.lines()) lowest = std::min(lowest, line.value("eval_loss", lowest));
  EXPECT_EQ(state.best_metric.get<double>(), lowest);
  const CheckpointState kept = load_checkpoint(run.folder.path() / ("checkpoint-" + std::to_string(best)));
  EXPECT_TRUE(run.decoder->parameters().values().equal(kept.optimizer.values));
}

TEST(Trainer, StopsEarlyAfterSoManyEvaluationsWithoutABetterOne) {
  TinyRun run;
  TrainOptions& o = run.settings.options;
  o.max_steps = 50;
  o.eval_strategy = Strategy::kSteps;
  o.eval_steps = 1;
  o.early_stopping_patience = 3;
  o.early_stopping_threshold = 100.0;  // nothing is that much better
  Trainer trainer = run.trainer();
  EXPECT_EQ(trainer.run().steps, 4);
}

void expect_divergence(TinyRun& run, const std::string& step, const std::string& place) {
  run.settings.options.save_strategy = Strategy::kSteps;
  run.settings.options.save_steps = 1;
  const at::Tensor before = run.decoder->parameters().values().clone();
  try {
    run.trainer().run();
    FAIL() << "nothing was noticed";
  } catch (const Diverged& error) {
    const std::string message = error.what();
    EXPECT_EQ(error.code(), ExitCode::kDiverged);
    EXPECT_TRUE(message.starts_with(step)) << message;
    EXPECT_NE(message.find(place), std::string::npos) << message;
    EXPECT_NE(message.find("row-"), std::string::npos) << message;
  }
  if (step == "step 1:") {
    EXPECT_TRUE(run.decoder->parameters().values().nan_to_num().equal(before.nan_to_num()));
    EXPECT_TRUE(run.saved().empty());
  }
}

TEST(Trainer, NamesStepOperationBlockAndRowsWhereANumberOverflows) {
  TinyRun overflow;
  overflow.decoder->store().put("model.layers.1.mlp.up_proj.weight", at::full({20, 12}, 1e38, at::kFloat));
  expect_divergence(overflow, "step 1:", "in block 2");
  TinyRun nan;
  nan.decoder->parameters().values()[3] = std::numeric_limits<double>::quiet_NaN();
  expect_divergence(nan, "step 1:", "in block 1");
  TinyRun rate;
  rate.settings.options.learning_rate = 1e30;
  rate.settings.options.lr_scheduler_type = Scheduler::kConstant;
  expect_divergence(rate, "step 2:", "in block");
  EXPECT_EQ(rate.saved(), Steps{1});
}

TEST(Trainer, TheLongestBatchIsTriedFirstAndChangesNothing) {
  TinyRun run;
  run.settings.options.max_steps = 8;
  run.trainer().run();
  const std::vector<Json> lines = run.lines();
  for (const Json& line : lines) EXPECT_EQ(line.at("memory_allocated_gib"), lines[0].at("memory_allocated_gib"));
  EXPECT_EQ(lines[3].at("epoch"), 1.0);
}

TEST(Trainer, AScaledLossChangesNoNumberAndOverflowsRunAgain) {
  std::vector<at::Tensor> values;
  std::vector<std::vector<Json>> lines;
  for (const double scale : {1.0, 65536.0, std::ldexp(1.0, 127)}) {  // the last makes the first loss infinite
    TinyRun run;
    run.settings.loss_scale = scale;
    EXPECT_EQ(run.trainer().run().steps, 6);
    values.push_back(run.decoder->parameters().values().clone());
    lines.push_back(run.lines());
  }
  for (std::size_t i = 1; i < values.size(); ++i) {
    EXPECT_TRUE(values[i].equal(values[0]));
    ASSERT_EQ(lines[i].size(), lines[0].size());
    for (std::size_t l = 0; l < lines[0].size(); ++l) {
      for (const char* key : {"step", "loss", "grad_norm", "learning_rate"}) {
        EXPECT_EQ(lines[i][l].at(key), lines[0][l].at(key)) << key;
      }
    }
  }
}

TEST(Trainer, RecomputingChangesNoNumberAndTakesLessMemory) {
  std::vector<at::Tensor> values;
  std::vector<double> peaks;
  for (const Checkpointing checkpointing : {Checkpointing::kOff, Checkpointing::kOn, Checkpointing::kAuto}) {
    TinyRun run;
    run.settings.options.gradient_checkpointing = checkpointing;
    peaks.push_back(run.trainer().run().memory_allocated_gib);
    values.push_back(run.decoder->parameters().values().clone());
  }
  EXPECT_TRUE(values[1].equal(values[0]));
  EXPECT_TRUE(values[2].equal(values[0]));
  EXPECT_LT(peaks[1], peaks[0]);
  EXPECT_EQ(peaks[2], peaks[0]);  // all of it fits
}

TEST(Trainer, AnEmbeddingOnTheHostChangesNoNumber) {
  TinyRun device, host;
  const auto table = [&](TinyRun& run) { return run.decoder->store().dequantized("model.embed_tokens.weight"); };
  host.decoder->move_embedding_to_host();
  EXPECT_TRUE(table(host).equal(table(device)));
  EXPECT_EQ(host.trainer().run().train_loss, device.trainer().run().train_loss);
  EXPECT_TRUE(host.decoder->parameters().values().equal(device.decoder->parameters().values()));
}

TEST(Memory, TheLargestBatchesAreThoseThatNoOtherReaches) {
  const PreparedSet set = rows_of(kLengths);
  const BatchOptions options{2, 2, false, 0, true, 7};
  const std::vector<LargestBatch> largest = largest_batches(set, options, 12);
  ASSERT_FALSE(largest.empty());
  for (std::int64_t e = 0; e < 3; ++e) {
    const Epoch epoch(set, options, e);
    for (std::int64_t s = 0; s < epoch.steps(); ++s) {
      for (std::size_t m = 0; m < epoch.step(s).micro_batches.size(); ++m) {
        const PackedBatch batch = epoch.step(s).batch(set, m);
        bool reached = false;
        for (const LargestBatch& l : largest) {
          reached = reached || (l.shape.tokens >= batch.tokens() &&
                                l.shape.labelled >= static_cast<std::int64_t>(batch.targets.size()));
        }
        EXPECT_TRUE(reached);
      }
    }
  }
}

std::int64_t count_of(const std::vector<Keep>& keep, Keep policy) {
  return std::count(keep.begin(), keep.end(), policy);
}

TEST(Memory, AutoTakesTheFastestPolicyThatFits) {
  const auto decoder = tiny_decoder();
  const auto& blocks = decoder->blocks(HeadKind::kLoss);
  const std::vector<LargestBatch> batches = largest_batches(rows_of(kLengths), {4, 1, false, 0, true, 7}, 4);
  const auto bytes = [&](const std::vector<Keep>& keep) { return activation_bytes(blocks, keep, batches).total(); };
  const std::vector<Keep> all = uniform_keep(blocks, Keep::kAll);
  const std::vector<Keep> expensive = uniform_keep(blocks, Keep::kExpensive);
  const std::vector<Keep> input = uniform_keep(blocks, Keep::kInputOnly);
  EXPECT_LE(bytes(input), bytes(expensive));
  EXPECT_LT(bytes(expensive), bytes(all));
  const auto chosen = [&](Checkpointing checkpointing, std::int64_t budget) {
    return choose_keep(checkpointing, blocks, batches, budget);
  };
  EXPECT_EQ(chosen(Checkpointing::kAuto, bytes(all)), all);
  EXPECT_EQ(count_of(chosen(Checkpointing::kAuto, bytes(all) - 1), Keep::kExpensive), 1);
  EXPECT_EQ(chosen(Checkpointing::kAuto, bytes(expensive)), expensive);
  EXPECT_EQ(chosen(Checkpointing::kAuto, 0), input);
  EXPECT_EQ(chosen(Checkpointing::kOff, 0), all);
  EXPECT_EQ(chosen(Checkpointing::kOn, bytes(all)), input);
  EXPECT_GT(free_memory(at::kCPU), 0);
}

TEST(Memory, ALimitIsKeptOrRefused) {
  const auto decoder = tiny_decoder();
  const PreparedSet set = rows_of(kLengths);
  const BatchOptions batches{4, 1, false, 0, true, 7};
  TrainOptions options;
  const MemoryBytes free = plan_run(*decoder, options, set, batches, 4).bytes;
  const auto gib = [](std::int64_t bytes) { return static_cast<double>(bytes) / (1 << 30); };
  options.max_memory_gib = gib(free.total() - 1);
  const RunPlan limited = plan_run(*decoder, options, set, batches, 4);
  EXPECT_LT(limited.bytes.total(), free.total());
  EXPECT_GT(count_of(limited.keep, Keep::kExpensive), 0);
  options.max_memory_gib = gib(free.total() - free.activations);
  EXPECT_THROW(plan_run(*decoder, options, set, batches, 4), OutOfMemory);
}

TEST(Memory, MergedMicroBatchesKeepTheirRowsAndTheirPlaces) {
  const PreparedSet set = rows_of(kLengths);
  const StepRows step = Epoch(set, {2, 3, false, 0, true, 7}, 0).step(0);
  ASSERT_EQ(step.micro_batches.size(), 3U);
  const StepRows pairs = merged(step, 2);
  ASSERT_EQ(pairs.micro_batches.size(), 2U);
  EXPECT_EQ(pairs.targets, step.targets);
  EXPECT_EQ(pairs.tokens, step.tokens);
  const PackedBatch both = pairs.batch(set, 0);
  EXPECT_EQ(both.rows, (std::vector<std::int32_t>{0, 1, 2, 3}));
  EXPECT_EQ(pairs.batch(set, 1).set_rows, step.batch(set, 2).set_rows);
  EXPECT_EQ(pairs.batch(set, 1).rows, step.batch(set, 2).rows);
  EXPECT_EQ(merged(step, 1).micro_batches, step.micro_batches);
}

}  // namespace
}  // namespace qlora
