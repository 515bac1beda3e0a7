// The table of architectures. A new one is a file beside llama.cpp, a line here, and a line in architecture.cpp.
#pragma once

#include <string>
#include <vector>

#include "qlora/models/builder.h"

namespace qlora {

struct Architecture {
  std::string model_type;
  // Reads what is this architecture's own in config.json, after the common fields.
  void (*configure)(const nlohmann::ordered_json& json, const std::string& origin, ModelConfig& config);
  void (*build)(DecoderBuilder& builder);
};

// Throws UsageError with one line that lists what is known.
const Architecture& find_architecture(const std::string& model_type, const std::string& origin);

extern const Architecture kLlama;
extern const Architecture kQwen2;

// Pre-norm attention and gated MLP with residuals, as Llama introduced it: what most architectures share.
void build_llama_like(DecoderBuilder& builder);

}  // namespace qlora
