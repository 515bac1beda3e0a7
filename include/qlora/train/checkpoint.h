// Checkpoints: a folder `checkpoint-<step>` that appears whole, is verified by its hashes, and continues bit-exactly.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "qlora/core/json.h"

namespace qlora {

// The flat master weights, and the moments by the names that AdamW::state() gives them.
struct OptimizerState {
  at::Tensor values;
  std::map<std::string, at::Tensor> moments;
};

// All that a run needs to go on, but the model's frozen weights.
struct CheckpointState {
  Json run;  // step, position in the data, counters, best score, log history
  OptimizerState optimizer;
};

// Writes `<output>/checkpoint-<step>`: what `save_model` puts into the folder, optimizer.safetensors,
// training_state.json, and last manifest.json with size and SHA-256 of every file. Never writes into an existing folder
// of a valid checkpoint. Throws RuntimeFailure naming path and cause; what was there stays.
std::filesystem::path save_checkpoint(const std::filesystem::path& output, std::int64_t step,
                                      const CheckpointState& state,
                                      const std::function<void(const std::filesystem::path&)>& save_model);

// Why a checkpoint's folder is not valid; nothing where it is.
std::optional<std::string> checkpoint_problem(const std::filesystem::path& folder);

// Throws DataError where the checkpoint is damaged.
CheckpointState load_checkpoint(const std::filesystem::path& folder);

// The checkpoints of a run by step, ascending.
std::vector<std::pair<std::int64_t, std::filesystem::path>> list_checkpoints(const std::filesystem::path& output);

// The newest valid one; damaged ones are announced in a warning and passed over.
std::optional<std::filesystem::path> newest_valid_checkpoint(const std::filesystem::path& output);

// Deletes the oldest beyond `limit`, never `keep` and never the newest; only after the newest has been verified.
void rotate_checkpoints(const std::filesystem::path& output, std::int64_t limit,
                        const std::optional<std::filesystem::path>& keep);

}  // namespace qlora
