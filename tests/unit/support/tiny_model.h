// The shape of a model that a test can afford.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "qlora/models/config.h"

namespace qlora {

inline ModelConfig tiny_config(const std::string& model_type = "llama") {
  ModelConfig c;
  c.model_type = model_type;
  c.vocabulary = 31;
  c.hidden = 12;
  c.intermediate = 20;
  c.layers = 2;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 6;
  c.max_positions = 64;
  c.qkv_bias = model_type == "qwen2";
  return c;
}

// What an architecture has besides, at the size of tiny_config(); rows of more than 7 tokens outgrow the window.
inline ModelConfig tiny_architecture(const std::string& type) {
  const ModelConfig c = tiny_config(type);
  const nlohmann::ordered_json json{{"model_type", type},
                                    {"vocab_size", c.vocabulary},
                                    {"hidden_size", c.hidden},
                                    {"intermediate_size", c.intermediate},
                                    {"num_hidden_layers", 3},
                                    {"num_attention_heads", c.heads},
                                    {"num_key_value_heads", c.kv_heads},
                                    {"head_dim", c.head_dim},
                                    {"sliding_window", 7},
                                    {"sliding_window_pattern", 2},
                                    {"full_attn_idxs", {1}},
                                    {"conv_bias", true},
                                    {"num_local_experts", 4},
                                    {"num_experts_per_tok", 2},
                                    {"moe_intermediate_size", 8},
                                    {"mlp_only_layers", {1}},
                                    {"output_router_logits", true},
                                    {"router_aux_loss_coef", 0.5},
                                    {"residual_multiplier", 0.5},
                                    {"no_rope_layer_interval", 2}};
  return parse_model_config(json, "config.json");
}

}  // namespace qlora
