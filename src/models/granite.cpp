// Granite 3: Llama with scalars on embeddings, attention, residuals and logits.
#include "qlora/models/architecture.h"

namespace qlora {
namespace {

void configure(const ConfigFields& fields, ModelConfig& config) {
  config.attention_bias = fields.flag("attention_bias", false);
  config.qkv_bias = config.attention_bias;
  config.mlp_bias = fields.flag("mlp_bias", false);
  config.embedding_scale = fields.positive("embedding_multiplier", 1.0);
  config.attention_scale = fields.positive("attention_multiplier", 1.0);
  config.residual_scale = fields.positive("residual_multiplier", 1.0);
  config.logit_scale = 1.0 / fields.positive("logits_scaling", 1.0);
}

}  // namespace

const Architecture kGranite{"granite", configure, build_llama_like};

}  // namespace qlora
