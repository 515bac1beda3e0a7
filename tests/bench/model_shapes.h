// Shapes of real models for benchmarks on random weights, and a benchmark's key=value arguments.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "qlora/models/config.h"

namespace qlora {

using Options = std::map<std::string, std::string>;

inline std::string option(const Options& options, const std::string& key, const std::string& otherwise) {
  const auto found = options.find(key);
  return found == options.end() ? otherwise : found->second;
}
inline std::int64_t number(const Options& options, const std::string& key, std::int64_t otherwise) {
  return std::stoll(option(options, key, std::to_string(otherwise)));
}

// Those behind the first.
inline Options options_of(int argc, char** argv) {
  Options options;
  for (int i = 2; i < argc; ++i) {
    const std::string text = argv[i];
    options[text.substr(0, text.find('='))] = text.substr(text.find('=') + 1);
  }
  return options;
}

inline ModelConfig shape_of(const std::string& name) {
  struct Row {
    const char* name;
    const char* type;
    std::int64_t hidden, layers, heads, kv_heads, head_dim, intermediate, vocabulary;
    bool tied;
  };
  constexpr Row kShapes[] = {
      {"Tiny", "qwen2", 256, 2, 4, 2, 64, 512, 4096, true},
      {"Small", "qwen2", 512, 8, 8, 2, 64, 1536, 8192, true},
      {"Qwen3-0.6B", "llama", 1024, 28, 16, 8, 128, 3072, 151936, true},  // see head_norms
      {"Qwen1.5-1.8B", "qwen2", 2048, 24, 16, 16, 128, 5504, 151936, false},
      {"Qwen3-1.7B", "llama", 2048, 28, 16, 8, 128, 6144, 151936, true},
      {"LFM2-2.6B", "lfm2", 2048, 30, 32, 8, 64, 10752, 65536, true},
      {"Llama-3.1-8B", "llama", 4096, 32, 32, 8, 128, 14336, 128256, false},
      {"Llama-2-70B", "llama", 8192, 80, 64, 8, 128, 28672, 32000, false},
  };
  for (const Row& r : kShapes) {
    if (name != r.name) continue;
    ModelConfig c;
    c.model_type = r.type;
    c.qkv_bias = c.model_type == "qwen2";
    c.hidden = r.hidden;
    c.layers = r.layers;
    c.heads = r.heads;
    c.kv_heads = r.kv_heads;
    c.head_dim = r.head_dim;
    c.intermediate = r.intermediate;
    c.vocabulary = r.vocabulary;
    c.tied_embeddings = r.tied;
    c.max_positions = 1 << 17;
    if (c.model_type == "lfm2") {
      c.head_norms = true;
      c.convolution_size = 3;
      c.layer_kinds.assign(static_cast<std::size_t>(c.layers), LayerKind::kConvolution);
      for (const std::size_t attends : {2, 5, 9, 13, 17, 21, 24, 27}) c.layer_kinds[attends] = LayerKind::kAttention;
    }
    return c;
  }
  TORCH_CHECK(false, "no shape '", name, "'");
}

}  // namespace qlora
