// The shape of a model that a test can afford.
#pragma once

#include <string>

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

}  // namespace qlora
