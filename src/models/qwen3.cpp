// Qwen3: Llama whose query and key heads are normed, with heads of a size of their own.
#include "qlora/models/architecture.h"

namespace qlora {
namespace {

void configure(const ConfigFields& fields, ModelConfig& config) {
  config.head_norms = true;
  if (!fields.find<std::int64_t>("head_dim")) config.head_dim = 128;
  config.attention_bias = fields.flag("attention_bias", false);
  config.qkv_bias = config.attention_bias;
  read_upper_windows(fields, config);
}

}  // namespace

const Architecture kQwen3{"qwen3", configure, build_llama_like};

}  // namespace qlora
