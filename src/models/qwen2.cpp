// Qwen1.5, Qwen2 and Qwen2.5: Llama with a bias on queries, keys and values.
#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/models/architecture.h"

namespace qlora {
namespace {

void configure(const nlohmann::ordered_json& json, const std::string& origin, ModelConfig& config) {
  if (json.value("use_sliding_window", false)) {
    throw UsageError(fmt::format("{}: use_sliding_window is not built yet", origin));
  }
  config.qkv_bias = true;
}

}  // namespace

const Architecture kQwen2{"qwen2", configure, build_llama_like};

}  // namespace qlora
