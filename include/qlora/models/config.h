// What a model's config.json says, in one form for all architectures and both ways transformers writes it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "qlora/nn/activation.h"
#include "qlora/nn/rope_scaling.h"

namespace qlora {

// What mixes the tokens of a row in one layer.
enum class LayerKind { kAttention, kWindowedAttention, kConvolution };

// A checkpoint whose linears bitsandbytes has quantized to NF4.
struct StoredNf4 {
  bool nested = false;             // double quantization
  std::vector<std::string> dense;  // linears that it left as they were: whole names, or their beginnings or ends
};

struct ModelConfig {
  std::string model_type;  // "llama", "qwen2": the architecture; architecture.cpp lists them
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
  std::optional<StoredNf4> stored_nf4;

  // What some architectures have besides.
  Activation activation = Activation::kSilu;
  std::vector<LayerKind> layer_kinds;  // one a layer; empty: all kAttention
  std::int64_t window = 0;             // of kWindowedAttention: how many keys a query sees, its own among them
  std::vector<bool> rotated_layers;    // which layers have RoPE; empty: all
  double partial_rotary_factor = 1.0;  // the part of each head that RoPE turns
  double windowed_rope_base = 0.0;     // of kWindowedAttention, unscaled; 0: rope_base and rope_scaling there, too
  bool head_norms = false;             // RMSNorm of each query and key head
  double norm_offset = 0.0;            // RMSNorm multiplies by offset + weight
  double attention_scale = 0.0;        // of the scores; 0: 1 / sqrt(head_dim)
  double attention_softcap = 0.0;      // 0: none
  double embedding_scale = 1.0;
  double residual_scale = 1.0;  // of what a layer adds to the residual stream
  double logit_scale = 1.0;
  double logit_softcap = 0.0;         // 0: none
  std::int64_t convolution_size = 0;  // of kConvolution: tokens that its kernel spans
  bool convolution_bias = false;
  std::int64_t experts = 0;  // of each layer that has them
  std::int64_t experts_per_token = 0;
  std::int64_t expert_intermediate = 0;
  bool normalized_routing = false;  // the weights of a token's experts sum to one
  std::vector<bool> expert_layers;  // which layers have experts; empty: all
  double router_loss_weight = 0.0;  // of the load-balancing loss; 0: none

  LayerKind kind(std::int64_t layer) const {
    return layer_kinds.empty() ? LayerKind::kAttention : layer_kinds[static_cast<std::size_t>(layer)];
  }
  bool rotates(std::int64_t layer) const {
    return rotated_layers.empty() || rotated_layers[static_cast<std::size_t>(layer)];
  }
  bool has_experts(std::int64_t layer) const {
    return experts > 0 && (expert_layers.empty() || expert_layers[static_cast<std::size_t>(layer)]);
  }
  // Tokens; with dynamic scaling max_positions is where the stretch begins.
  std::int64_t longest_row() const {
    const double stretch = rope_scaling.kind == RopeScaling::Kind::kDynamic ? rope_scaling.factor : 1.0;
    return static_cast<std::int64_t>(static_cast<double>(max_positions) * stretch);
  }
  std::int64_t rotary_dim() const {
    return static_cast<std::int64_t>(static_cast<double>(head_dim) * partial_rotary_factor);
  }
};

// `origin` names the file in errors. Reads `rope_theta`, `rope_scaling`, `torch_dtype` (transformers 4) and
// `rope_parameters`, `dtype` (5). Throws DataError naming the field for what is missing, of the wrong type, or out of
// range; UsageError for a feature that is not built yet, for weights that are quantized otherwise than to NF4, and for
// an unknown model_type, listing what is known.
ModelConfig parse_model_config(const nlohmann::ordered_json& config, const std::string& origin);

}  // namespace qlora
