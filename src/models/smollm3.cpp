// SmolLM3: Llama without RoPE on every fourth layer.
#include <fmt/format.h>

#include "qlora/models/architecture.h"

namespace qlora {
namespace {

// Of each layer 1 where it has RoPE (`no_rope_layers` says so in spite of its name), else every fourth has none.
std::vector<bool> read_rotated_layers(const ConfigFields& fields, std::int64_t layers) {
  std::vector<bool> rotated;
  const auto listed = fields.numbers("no_rope_layers");
  if (listed && static_cast<std::int64_t>(listed->size()) < layers) {
    throw DataError(fmt::format("{}: 'no_rope_layers' names {} layers, num_hidden_layers is {}", fields.origin(),
                                listed->size(), layers));
  }
  const std::int64_t interval = fields.size("no_rope_layer_interval", 4);
  for (std::int64_t i = 0; i < layers; ++i) {
    rotated.push_back(listed ? (*listed)[static_cast<std::size_t>(i)] != 0.0 : (i + 1) % interval != 0);
  }
  return rotated;
}

void configure(const ConfigFields& fields, ModelConfig& config) {
  config.attention_bias = fields.flag("attention_bias", false);
  config.qkv_bias = config.attention_bias;
  config.mlp_bias = fields.flag("mlp_bias", false);
  config.tied_embeddings = fields.flag("tie_word_embeddings", true);
  config.rope_base = 2'000'000.0;
  config.rotated_layers = read_rotated_layers(fields, config.layers);
  if (!fields.flag("use_sliding_window", false) || !fields.find<std::int64_t>("sliding_window")) return;
  config.window = fields.size("sliding_window");
  config.layer_kinds =
      read_layer_kinds(fields, config.layers, [&config](std::int64_t layer) { return !config.rotates(layer); });
}

}  // namespace

const Architecture kSmolLm3{"smollm3", configure, build_llama_like};

}  // namespace qlora
