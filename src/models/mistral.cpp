// Mistral: Llama with a window of keys on all layers, where config.json has one.
#include "qlora/models/architecture.h"

namespace qlora {
namespace {

void configure(const ConfigFields& fields, ModelConfig& config) {
  if (fields.has("sliding_window") && !fields.find<std::int64_t>("sliding_window")) return;  // null: no window
  config.window = fields.size("sliding_window", 4096);
  config.layer_kinds.assign(static_cast<std::size_t>(config.layers), LayerKind::kWindowedAttention);
}

}  // namespace

const Architecture kMistral{"mistral", configure, build_llama_like};

}  // namespace qlora
