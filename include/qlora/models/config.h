// What a model's config.json says, in one form for all architectures and both ways transformers writes it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

#include "qlora/nn/rope.h"

namespace qlora {

struct ModelConfig {
  std::string model_type;  // "llama", "qwen2": the architecture
  std::int64_t vocabulary = 0;
  std::int64_t hidden = 0;
  std::int64_t intermediate = 0;
  std::int64_t layers = 0;
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  double norm_epsilon = 1e-6;
  double rope_base = 10000.0;
  RopeScaling rope_scaling;
  std::int64_t max_positions = 0;
  bool tied_embeddings = false;
  bool attention_bias = false;  // on q, k, v and o
  bool qkv_bias = false;        // on q, k and v
  bool mlp_bias = false;
  double initializer_range = 0.02;
  std::string dtype;  // of the checkpoint: "bfloat16"; empty where not said
};

// `origin` names the file in errors. Reads `rope_theta`, `rope_scaling`, `torch_dtype` (transformers 4) and
// `rope_parameters`, `dtype` (5). Throws DataError naming the field for what is missing, of the wrong type, or out of
// range; UsageError for a feature that is not built yet.
ModelConfig parse_model_config(const nlohmann::ordered_json& config, const std::string& origin);

}  // namespace qlora
