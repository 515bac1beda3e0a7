#include "qlora/models/architecture.h"

#include <array>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "qlora/core/error.h"

namespace qlora {

const Architecture& find_architecture(const std::string& model_type, const std::string& origin) {
  static const std::array<const Architecture*, 12> kKnown{&kGemma2, &kGemma3,  &kGranite,  &kLfm2,
                                                          &kLlama,  &kMistral, &kMixtral,  &kPhi3,
                                                          &kQwen2,  &kQwen3,   &kQwen3Moe, &kSmolLm3};
  std::vector<std::string> names;
  for (const Architecture* architecture : kKnown) {
    if (architecture->model_type == model_type) return *architecture;
    names.push_back(architecture->model_type);
  }
  throw UsageError(
      fmt::format("{}: model_type '{}' is not built yet; known are: {}", origin, model_type, fmt::join(names, ", ")));
}

std::vector<LayerKind> read_layer_kinds(const ConfigFields& fields, std::int64_t layers,
                                        const std::function<bool(std::int64_t layer)>& windowed) {
  std::vector<LayerKind> kinds;
  const auto names = fields.strings("layer_types");
  if (!names) {
    for (std::int64_t i = 0; i < layers; ++i) {
      kinds.push_back(windowed(i) ? LayerKind::kWindowedAttention : LayerKind::kAttention);
    }
    return kinds;
  }
  if (static_cast<std::int64_t>(names->size()) != layers) {
    throw DataError(fmt::format("{}: 'layer_types' names {} layers, num_hidden_layers is {}", fields.origin(),
                                names->size(), layers));
  }
  for (const std::string& name : *names) {
    if (name == "full_attention") {
      kinds.push_back(LayerKind::kAttention);
    } else if (name == "sliding_attention") {
      kinds.push_back(LayerKind::kWindowedAttention);
    } else if (name == "conv") {
      kinds.push_back(LayerKind::kConvolution);
    } else {
      throw UsageError(
          fmt::format("{}: layer type '{}' is not built yet; known are: full_attention, sliding_attention, conv",
                      fields.origin(), name));
    }
  }
  return kinds;
}

void read_upper_windows(const ConfigFields& fields, ModelConfig& config) {
  const auto window = fields.find<std::int64_t>("sliding_window");
  if (!fields.flag("use_sliding_window", false) || !window) return;
  config.window = fields.size("sliding_window");
  const std::int64_t first = fields.find<std::int64_t>("max_window_layers").value_or(28);
  config.layer_kinds = read_layer_kinds(fields, config.layers, [first](std::int64_t layer) { return layer >= first; });
}

}  // namespace qlora
