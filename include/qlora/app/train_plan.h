// What a run of `qlora train` will do and need, from its config and rows alone: no weights are read.
#pragma once

#include <filesystem>
#include <optional>

#include "qlora/adapters/attach.h"
#include "qlora/app/options.h"
#include "qlora/app/training_data.h"
#include "qlora/core/json.h"
#include "qlora/data/batches.h"

namespace qlora {

// Where the adapter of a run comes from: a new one, or the one it starts from.
struct AdapterStart {
  LoraConfig config;
  std::optional<LoraAdapter> from;
};

// `model`: the folder of the base. Reads adapter_name_or_path where it is set, and puts its r, alpha and kind of scale
// into `job`. Throws UsageError where the job's own differ from the adapter's; one that equals the default counts as
// not given.
AdapterStart resolve_adapter(TrainJob& job, const std::filesystem::path& model);

// What is trained, and how: all of the model (method full), or the adapters of `config`.
TrainingPlan training_plan(const TrainJob& job, const LoraConfig& config, const ModelConfig& model);

BatchOptions batch_options(const TrainJob& job, const ModelConfig& model);

// {"rows", "eval_rows", "steps", "steps_per_epoch", "tokens_per_epoch", "longest_batch": {"rows", "tokens", "labels"},
// "parameters", "trainable_parameters", "gradient_checkpointing", "bytes": {"weights", "dequantized", "trainable",
// "gradients", "optimizer", "activations", "total"}, "estimated_seconds"}. The time is that of the products alone, at
// the speed of one that is measured now.
Json plan_training(const TrainJob& job, const std::filesystem::path& model, const AdapterStart& start,
                   const TrainingData& data);

// Throws before any weight is read what a run would throw for a max_memory_gib that does not suffice.
void check_memory(const TrainJob& job, const std::filesystem::path& model, const AdapterStart& start,
                  const TrainingData& data);

// The plan for a reader.
std::string plan_text(const Json& plan);

}  // namespace qlora
