// The config keys of training, by the names and defaults of Hugging Face's trainer.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "qlora/core/schema_fwd.h"

namespace qlora {

enum class Scheduler { kLinear, kCosine, kConstant, kConstantWithWarmup };
enum class Optimizer { kAdamwTorch, kAdamw8bit, kPagedAdamw32bit, kPagedAdamw8bit };
enum class Checkpointing { kAuto, kOn, kOff };  // kAuto: what the memory plan chooses
enum class Strategy { kNo, kSteps, kEpoch };

// What resume_from_checkpoint says besides a folder.
inline constexpr const char* kAutoResume = "auto";
inline constexpr const char* kNoResume = "none";

struct TrainOptions {
  int64_t per_device_train_batch_size = 8;  // rows of a micro-batch
  int64_t gradient_accumulation_steps = 1;  // micro-batches of a step
  double num_train_epochs = 3.0;
  int64_t max_steps = -1;  // above 0 it decides instead of the epochs

  double learning_rate = 5e-5;
  Scheduler lr_scheduler_type = Scheduler::kLinear;
  int64_t warmup_steps = 0;    // above 0 it decides instead of the ratio
  double warmup_ratio = 0.0;   // of all steps, rounded up
  double weight_decay = 0.0;   // spares biases and norms
  double max_grad_norm = 1.0;  // 0: no clipping
  Optimizer optim = Optimizer::kAdamwTorch;
  double adam_beta1 = 0.9;
  double adam_beta2 = 0.999;
  double adam_epsilon = 1e-8;
  std::optional<double> neftune_noise_alpha;
  std::optional<double> loraplus_lr_ratio;

  Checkpointing gradient_checkpointing = Checkpointing::kAuto;
  std::optional<double> max_memory_gib;
  bool deterministic = false;
  bool cuda_graphs = true;

  Strategy eval_strategy = Strategy::kNo;
  std::optional<int64_t> eval_steps;  // unset: logging_steps
  int64_t per_device_eval_batch_size = 8;
  std::vector<std::string> eval_tasks;      // of `qlora eval`
  std::optional<int64_t> max_eval_samples;  // rows that these are scored on; unset: all

  int64_t logging_steps = 10;
  std::vector<std::string> report_to;  // empty: tensorboard

  Strategy save_strategy = Strategy::kSteps;
  int64_t save_steps = 500;
  std::optional<int64_t> save_total_limit;           // unset: all are kept
  std::string resume_from_checkpoint = kAutoResume;  // or kNoResume, or a checkpoint's folder
  bool load_best_model_at_end = false;
  std::string metric_for_best_model = "eval_loss";  // or a score of eval_tasks, as spider_execution
  std::optional<bool> greater_is_better;            // unset: as the metric is
  std::optional<int64_t> early_stopping_patience;   // evaluations without a better metric
  double early_stopping_threshold = 0.0;
};

void declare(Schema<TrainOptions>& schema);

}  // namespace qlora
