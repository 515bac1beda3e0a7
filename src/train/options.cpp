// The declarations of training's keys.
#include "qlora/train/options.h"

#include <algorithm>

#include "qlora/core/schema.h"

namespace qlora {
namespace {

using T = TrainOptions;

void declare_batches(Schema<T>& schema) {
  schema.key("per_device_train_batch_size", &T::per_device_train_batch_size, "Rows of a micro-batch.")
      .at_least(1)
      .synonyms({"micro_batch_size", "batch_size"});
  schema.key("gradient_accumulation_steps", &T::gradient_accumulation_steps, "Micro-batches of a step.").at_least(1);
  schema.key("num_train_epochs", &T::num_train_epochs, "Times that the data is seen.")
      .above(0)
      .synonyms({"num_epochs", "epochs"});
  schema.key("max_steps", &T::max_steps, "Steps of the whole run, instead of epochs; -1: the epochs decide.")
      .at_least(-1);
}

void declare_optimizer(Schema<T>& schema) {
  schema.key("learning_rate", &T::learning_rate, "The highest learning rate.").at_least(0).synonyms({"lr"});
  schema.key("lr_scheduler_type", &T::lr_scheduler_type, "How the rate runs after the warm-up.")
      .choices({{"linear", Scheduler::kLinear},
                {"cosine", Scheduler::kCosine},
                {"constant", Scheduler::kConstant},
                {"constant_with_warmup", Scheduler::kConstantWithWarmup}})
      .synonyms({"lr_scheduler"});
  schema.key("warmup_steps", &T::warmup_steps, "Steps of the warm-up; 0: warmup_ratio decides.").at_least(0);
  schema.key("warmup_ratio", &T::warmup_ratio, "Share of all steps that is the warm-up.").at_least(0).at_most(1);
  schema.key("weight_decay", &T::weight_decay, "Decoupled weight decay; biases and norms are spared.").at_least(0);
  schema.key("max_grad_norm", &T::max_grad_norm, "Gradients are clipped to this norm; 0: never.")
      .at_least(0)
      .synonyms({"clip_grad_norm"});
  schema.key("optim", &T::optim, "AdamW; with moments in 8 bits as bitsandbytes; with moments in pinned host memory.")
      .choices({{"adamw_torch", Optimizer::kAdamwTorch},
                {"adamw_8bit", Optimizer::kAdamw8bit},
                {"paged_adamw_32bit", Optimizer::kPagedAdamw32bit},
                {"paged_adamw_8bit", Optimizer::kPagedAdamw8bit}})
      .spelt({{"adamw", "adamw_torch"},
              {"adamw_torch_fused", "adamw_torch"},
              {"adamw_bnb_8bit", "adamw_8bit"},
              {"paged_adamw", "paged_adamw_32bit"}})
      .synonyms({"optimizer"});
  schema.key("adam_beta1", &T::adam_beta1, "AdamW's beta 1.").at_least(0).below(1);
  schema.key("adam_beta2", &T::adam_beta2, "AdamW's beta 2.").at_least(0).below(1);
  schema.key("adam_epsilon", &T::adam_epsilon, "AdamW's epsilon.").at_least(0);
  schema
      .key("neftune_noise_alpha", &T::neftune_noise_alpha,
           "NEFTune: uniform noise of up to alpha / sqrt(tokens of the row * hidden size) on the embeddings.")
      .above(0);
  schema.key("loraplus_lr_ratio", &T::loraplus_lr_ratio, "LoRA+: the rate of B over that of A.").above(0);
}

void declare_memory(Schema<T>& schema) {
  schema
      .key("gradient_checkpointing", &T::gradient_checkpointing,
           "Keep only the blocks' inputs and compute the rest again. auto: what the memory plan chooses.")
      .choices({{"auto", Checkpointing::kAuto}, {"true", Checkpointing::kOn}, {"false", Checkpointing::kOff}});
  schema
      .key(
          "max_memory_gib", &T::max_memory_gib,
          "Memory of the device that the run may use; of a GPU's, half a GiB goes to CUDA itself. What does not fit is "
          "computed again, or on a GPU waits in pinned host memory: the embedding's table, the optimizer's moments, "
          "the blocks' inputs, in this order. The numbers are the same.")
      .above(0);
  schema.key(
      "deterministic", &T::deterministic,
      "Only kernels that give the same bits every time, and micro-batches as they are: on a GPU small ones run as "
      "one otherwise, where memory allows.");
  schema.key("cuda_graphs", &T::cuda_graphs,
             "On a GPU: capture a batch shape's launches once and replay them. The numbers are the same.");
}

void declare_evaluation(Schema<T>& schema) {
  schema.key("eval_strategy", &T::eval_strategy, "When to evaluate.")
      .choices({{"no", Strategy::kNo}, {"steps", Strategy::kSteps}, {"epoch", Strategy::kEpoch}})
      .synonyms({"evaluation_strategy"});
  schema.key("eval_steps", &T::eval_steps, "Steps between evaluations. Unset: logging_steps.").at_least(1);
  schema.key("per_device_eval_batch_size", &T::per_device_eval_batch_size, "Rows of an evaluation's micro-batch.")
      .at_least(1)
      .synonyms({"eval_batch_size"});
  schema
      .key("eval_tasks", &T::eval_tasks,
           "Tasks of `qlora eval` that are scored at each evaluation, with the adapter as it then is.")
      .one_of({"spider", "perplexity", "mmlu", "generate"});
  schema
      .key("max_eval_samples", &T::max_eval_samples,
           "eval_tasks take so many rows of the evaluation set, the first ones. Unset: all. eval_loss is over all.")
      .at_least(1);
  schema.key("load_best_model_at_end", &T::load_best_model_at_end, "End with the best checkpoint, not with the last.");
  schema.key("metric_for_best_model", &T::metric_for_best_model,
             "What makes a checkpoint the best: eval_loss, or a score of eval_tasks as metrics.jsonl names it, such as "
             "eval_spider_execution (the eval_ may be left out).");
  schema.key("greater_is_better", &T::greater_is_better,
             "Unset: false where less is better of the metric, as of a loss or a perplexity.");
  schema
      .key("early_stopping_patience", &T::early_stopping_patience,
           "Stop after so many evaluations without a better metric. Unset: never.")
      .at_least(1);
  schema.key("early_stopping_threshold", &T::early_stopping_threshold, "By how much better counts as better.")
      .at_least(0);
}

void declare_records(Schema<T>& schema) {
  schema.key("logging_steps", &T::logging_steps, "Steps between lines of metrics.jsonl.").at_least(1);
  schema.key("report_to", &T::report_to, "Where metrics go beside metrics.jsonl. Unset: tensorboard, as runs/.")
      .one_of({"none", "tensorboard", "wandb", "mlflow"})
      .not_built_yet({"wandb", "mlflow"});
  schema.key("save_strategy", &T::save_strategy, "When to save a checkpoint.")
      .choices({{"no", Strategy::kNo}, {"steps", Strategy::kSteps}, {"epoch", Strategy::kEpoch}});
  schema.key("save_steps", &T::save_steps, "Steps between checkpoints.").at_least(1);
  schema.key("save_total_limit", &T::save_total_limit, "Checkpoints to keep. Unset: all.").at_least(1);
  schema
      .key("resume_from_checkpoint", &T::resume_from_checkpoint,
           "auto (the newest valid one in output_dir), none, or a checkpoint's folder.")
      .spelt({{"true", kAutoResume}, {"false", kNoResume}})
      .synonym("auto_resume_from_checkpoints", {{"true", "auto"}, {"false", "none"}});
}

}  // namespace

void declare(Schema<TrainOptions>& schema) {
  declare_batches(schema);
  declare_optimizer(schema);
  declare_memory(schema);
  declare_evaluation(schema);
  declare_records(schema);
  schema.rule("max_steps", [](const T& t) -> std::string {
    return t.max_steps == 0 ? "0 steps train nothing: give a number above 0, or -1 for the epochs" : "";
  });
  schema.rule("report_to", [](const T& t) -> std::string {
    const bool none = std::count(t.report_to.begin(), t.report_to.end(), "none") > 0;
    return none && t.report_to.size() > 1 ? "none stands alone" : "";
  });
  schema.rule("eval_tasks", [](const T& t) -> std::string {
    return !t.eval_tasks.empty() && t.eval_strategy == Strategy::kNo ? "needs eval_strategy: steps or epoch" : "";
  });
  schema.rule("load_best_model_at_end", [](const T& t) -> std::string {
    return t.load_best_model_at_end && t.eval_strategy == Strategy::kNo ? "needs eval_strategy: steps or epoch" : "";
  });
  schema.rule("early_stopping_patience", [](const T& t) -> std::string {
    return t.early_stopping_patience && t.eval_strategy == Strategy::kNo ? "needs eval_strategy: steps or epoch" : "";
  });
}

}  // namespace qlora
