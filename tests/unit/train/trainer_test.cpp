// The training loop over a tiny model: what makes a step, when it evaluates, saves and stops, and where it refuses.
#include "qlora/train/trainer.h"

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

TEST(Trainer, LossAndGradientDoNotDependOnHowAStepIsSplit) {
  std::vector<double> losses, norms;
  std::vector<at::Tensor> values;
  for (const auto& [rows, micro_batches] : {std::pair{16, 1}, {8, 2}, {4, 4}, {1, 16}}) {
    TinyRun run;
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

TEST(Memory, AutoTakesTheFastestPolicyThatFits) {
  const auto decoder = tiny_decoder();
  const auto& blocks = decoder->blocks(HeadKind::kLoss);
  const std::vector<LargestBatch> batches = largest_batches(rows_of(kLengths), {4, 1, false, 0, true, 7}, 4);
  const std::int64_t all = arena_bytes(blocks, Keep::kAll, batches);
  const std::int64_t expensive = arena_bytes(blocks, Keep::kExpensive, batches);
  const std::int64_t input = arena_bytes(blocks, Keep::kInputOnly, batches);
  EXPECT_LE(input, expensive);
  EXPECT_LT(expensive, all);
  EXPECT_EQ(choose_keep(Checkpointing::kAuto, blocks, batches, all), Keep::kAll);
  EXPECT_EQ(choose_keep(Checkpointing::kAuto, blocks, batches, all - 1), Keep::kExpensive);
  EXPECT_EQ(choose_keep(Checkpointing::kAuto, blocks, batches, 0), Keep::kInputOnly);
  EXPECT_EQ(choose_keep(Checkpointing::kOff, blocks, batches, 0), Keep::kAll);
  EXPECT_EQ(choose_keep(Checkpointing::kOn, blocks, batches, all), Keep::kInputOnly);
  EXPECT_GT(free_memory(at::kCPU), 0);
}

}  // namespace
}  // namespace qlora
