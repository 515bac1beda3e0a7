// The training loop: steps over micro-batches, evaluation, checkpoints, and going on after an interruption.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include <c10/core/Event.h>

#include "qlora/data/batches.h"
#include "qlora/models/decoder.h"
#include "qlora/nn/program_runner.h"
#include "qlora/train/checkpoint.h"
#include "qlora/train/memory.h"
#include "qlora/train/metrics.h"
#include "qlora/train/optimizer.h"
#include "qlora/train/options.h"

namespace qlora {

struct TrainerSettings {
  TrainOptions options;
  BatchOptions batches;
  std::filesystem::path output;
  Json identity;  // what a checkpoint must agree on, by name: the data's fingerprint, the resolved config
  // Writes the model (adapter, or all weights) and what goes with it into a folder.
  std::function<void(const std::filesystem::path&)> save_model;
  // Called once a checkpoint of the step stands on the disk; may be empty.
  std::function<void(std::int64_t step)> on_saved;
  // What the loss is multiplied with before backward, and gradients are divided by before they are used. It is halved
  // where gradients overflow, and the step runs again. Unset: 65536 in float16, whose small gradients vanish, else 1.
  std::optional<double> loss_scale;
  // Further scores of an evaluation, by name ("eval_spider_execution"); may be empty. It takes so many bytes of the
  // device beside the run's own, and gives them back.
  std::function<Json()> on_eval;
  std::int64_t on_eval_bytes = 0;
};

struct TrainingResult {
  std::int64_t steps = 0;
  double epochs = 0.0;
  double train_loss = 0.0;          // mean of all steps' losses
  std::optional<double> eval_loss;  // of the weights that are kept, where they were evaluated
  std::int64_t kept_step = 0;       // whose weights these are: another than the last under load_best_model_at_end
  std::int64_t tokens = 0, input_tokens = 0;
  double seconds = 0.0, tokens_per_second = 0.0;
  double memory_allocated_gib = 0.0, memory_used_gib = 0.0;

  Json to_json(const std::string& output_dir) const;
};

// The keys in which a run differs from an earlier one of this identity.
std::vector<std::string> changed_keys(const Json& earlier, const Json& now);

// How many optimizer steps a run takes: max_steps, else the epochs' (a part of an epoch is rounded up).
std::int64_t total_steps(const TrainOptions& options, std::int64_t steps_per_epoch);

class Trainer {
 public:
  // Decoder and sets must outlive it. `eval` may be null.
  Trainer(Decoder& decoder, const PreparedSet& train, const PreparedSet* eval, TrainerSettings settings);

  // Continues from a checkpoint. Throws UsageError naming what differs from the checkpoint's identity.
  void resume(const std::filesystem::path& checkpoint);

  // Runs to the end. Throws Diverged (no update, no checkpoint of that step) at NaN or Inf, and Error with the signal's
  // code after SIGINT or SIGTERM, once a checkpoint is written.
  // The batch that needs most memory is tried before the first step: OutOfMemory then says what to change.
  // `earlier_stands`: the output folder holds another run's results until this one has saved, and so its metrics.
  TrainingResult run(bool earlier_stands = false);

  TrainerState trainer_state() const;
  std::int64_t steps_done() const { return step_; }

 private:
  Batch training_batch(const PackedBatch& packed, std::int64_t targets_of_step, std::int64_t step,
                       double scale = 1.0) const;
  void probe_memory();
  using Clock = std::chrono::steady_clock;
  // A step that was begun. Its loss and gradient norm are on their way from the device; the host needs them when the
  // next step is under way.
  struct PendingStep {
    StepRows rows;
    StepMetrics metrics;
    Clock::time_point start;
    at::Tensor numbers;  // float64 [2]: loss, norm
    std::optional<c10::Event> arrived;
  };
  void step(StepRows rows);
  void settle(std::size_t left);
  void settle_oldest();
  void repeat_at_lower_scale(PendingStep failed);
  [[noreturn]] void report_divergence(const StepRows& rows, const StepMetrics& metrics);
  void log(const StepMetrics& metrics);
  void evaluate();
  Json further_scores();
  void judge(const Json& line);
  bool improves(double score) const;
  void save();
  void after_step(bool epoch_ended);
  void evaluate_if_due();
  bool best_must_be_saved() const;
  [[noreturn]] void stop();
  bool due(Strategy strategy, std::int64_t every, bool epoch_ended) const;
  void load_best();
  double epoch_reached() const;
  void note_memory(std::int64_t more_bytes);
  double peak_gib() const;
  TrainingResult result() const;

  Decoder& decoder_;
  const PreparedSet& train_;
  const PreparedSet* eval_;
  TrainerSettings settings_;
  Batcher batcher_;
  RunPlan plan_;
  std::unique_ptr<AdamW> optimizer_;
  std::unique_ptr<ProgramCache> programs_;
  std::unique_ptr<ProgramRunner> runner_;
  std::deque<PendingStep> pending_;
  Clock::time_point last_settled_;
  std::unique_ptr<MetricsFile> metrics_;

  // What a checkpoint keeps (write_run, read_run).
  Json write_run() const;
  void read_run(const Json& run);
  std::int64_t step_ = 0, total_ = 0, warmup_ = 0;
  std::int64_t tokens_ = 0, input_tokens_ = 0;
  double loss_sum_ = 0.0, seconds_ = 0.0;
  double window_loss_ = 0.0;  // since the last log
  std::int64_t window_steps_ = 0;
  double loss_scale_ = 1.0;
  std::int64_t steps_at_scale_ = 0;
  std::optional<double> eval_loss_, best_score_;
  std::int64_t best_step_ = 0, evaluations_without_best_ = 0;
  std::optional<std::int64_t> kept_step_;
  bool evaluation_due_ = false;  // a signal came before it
  bool stop_early_ = false;
  Json log_history_ = Json::array();

  double last_loss_ = 0.0;
  std::int64_t last_saved_ = -1;
  std::int64_t peak_bytes_ = 0;
  double used_gib_ = 0.0;  // by the process; on a GPU what the card has lost
};

}  // namespace qlora
