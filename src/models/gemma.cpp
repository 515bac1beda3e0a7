// Gemma 2 and the text model of Gemma 3: scaled embeddings, norms that multiply by 1 + weight, before and behind
// attention and MLP, GeGLU, windows on most layers. Gemma 2 soft-caps scores and logits; Gemma 3 norms heads instead
// and has another RoPE base on windowed layers.
#include <cmath>

#include <fmt/format.h>

#include "qlora/models/architecture.h"

namespace qlora {
namespace {

void configure_both(const ConfigFields& fields, ModelConfig& config) {
  const std::string activation = fields.find<std::string>("hidden_activation").value_or("gelu_pytorch_tanh");
  if (activation != "gelu_pytorch_tanh") {
    throw UsageError(fmt::format("{}: hidden_activation '{}' is not built yet; known is: gelu_pytorch_tanh",
                                 fields.origin(), activation));
  }
  if (fields.flag("use_bidirectional_attention", false)) {
    throw UsageError(fmt::format("{}: use_bidirectional_attention is not built: no decoder", fields.origin()));
  }
  config.activation = Activation::kGeluTanh;
  config.tied_embeddings = fields.flag("tie_word_embeddings", true);
  if (!fields.find<std::int64_t>("head_dim")) config.head_dim = 256;
  config.attention_bias = fields.flag("attention_bias", false);
  config.qkv_bias = config.attention_bias;
  config.norm_offset = 1.0;
  config.embedding_scale = std::sqrt(static_cast<double>(config.hidden));
  config.attention_scale = 1.0 / std::sqrt(fields.positive("query_pre_attn_scalar", 256.0));
  config.window = fields.has("sliding_window") && !fields.find<std::int64_t>("sliding_window")
                      ? 0
                      : fields.size("sliding_window", 4096);
}

// Null is none; absent is the default.
double softcap(const ConfigFields& fields, const char* key, double otherwise) {
  return fields.has(key) ? fields.positive(key).value_or(0.0) : otherwise;
}

void configure2(const ConfigFields& fields, ModelConfig& config) {
  configure_both(fields, config);
  config.attention_softcap = softcap(fields, "attn_logit_softcapping", 50.0);
  config.logit_softcap = softcap(fields, "final_logit_softcapping", 30.0);
  config.layer_kinds = read_layer_kinds(fields, config.layers, [](std::int64_t layer) { return layer % 2 == 0; });
}

void configure3(const ConfigFields& fields, ModelConfig& config) {
  configure_both(fields, config);
  config.head_norms = true;
  config.logit_softcap = softcap(fields, "final_logit_softcapping", 0.0);
  config.rope_base = 1'000'000.0;
  config.windowed_rope_base = fields.positive("rope_local_base_freq", 10000.0);
  const std::int64_t pattern = fields.size("sliding_window_pattern", 6);
  config.layer_kinds =
      read_layer_kinds(fields, config.layers, [pattern](std::int64_t layer) { return (layer + 1) % pattern != 0; });
}

void build(DecoderBuilder& builder) {
  const ModelConfig& c = builder.config();
  builder.embedding("model.embed_tokens");
  for (std::int64_t i = 0; i < c.layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    Block& block = builder.begin_block();
    Block::Value x = builder.rms_norm(block, layer + "input_layernorm", c.hidden, Block::kInput);
    x = self_attention(builder, block, layer + "self_attn.", i, x);
    x = builder.projection(block, {{layer + "self_attn.o_proj", c.hidden, c.attention_bias}}, c.heads * c.head_dim, x);
    x = builder.rms_norm(block, layer + "post_attention_layernorm", c.hidden, x);
    const Block::Value middle = builder.add(block, x, Block::kInput);
    x = builder.rms_norm(block, layer + "pre_feedforward_layernorm", c.hidden, middle);
    x = gated_mlp(builder, block, layer + "mlp.", x, std::nullopt);
    x = builder.rms_norm(block, layer + "post_feedforward_layernorm", c.hidden, x);
    builder.add(block, x, middle);
  }
  builder.head("model.norm", c.tied_embeddings ? "model.embed_tokens" : "lm_head");
}

}  // namespace

const Architecture kGemma2{"gemma2", configure2, build};
const Architecture kGemma3{"gemma3_text", configure3, build};

}  // namespace qlora
