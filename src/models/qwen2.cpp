// Qwen1.5, Qwen2 and Qwen2.5: Llama with a bias on queries, keys and values.
#include "qlora/models/architecture.h"

namespace qlora {
namespace {

void configure(const ConfigFields& fields, ModelConfig& config) {
  config.qkv_bias = true;
  read_upper_windows(fields, config);
}

}  // namespace

const Architecture kQwen2{"qwen2", configure, build_llama_like};

}  // namespace qlora
