// Phi-3, Phi-3.5 and Phi-4-mini: Llama with queries, keys and values in one linear, gate and up in another; RoPE may
// turn a part of each head.
#include "qlora/models/architecture.h"

namespace qlora {
namespace {

void configure(const ConfigFields& fields, ModelConfig& config) {
  config.partial_rotary_factor = fields.positive("partial_rotary_factor", 1.0);
  if (const auto rope = fields.object("rope_parameters")) {
    config.partial_rotary_factor = ConfigFields(*rope, fields.origin() + ": rope_parameters")
                                       .positive("partial_rotary_factor", config.partial_rotary_factor);
  }
  if (!fields.find<std::int64_t>("sliding_window")) return;
  config.window = fields.size("sliding_window");
  config.layer_kinds.assign(static_cast<std::size_t>(config.layers), LayerKind::kWindowedAttention);
}

void build(DecoderBuilder& builder) {
  const ModelConfig& c = builder.config();
  builder.embedding("model.embed_tokens");
  for (std::int64_t i = 0; i < c.layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    Block& block = builder.begin_block();
    Block::Value x = builder.rms_norm(block, layer + "input_layernorm", c.hidden, Block::kInput);
    x = builder.projection(block, {{layer + "self_attn.qkv_proj", (c.heads + 2 * c.kv_heads) * c.head_dim}}, c.hidden,
                           x);
    x = builder.attention(block, i, x);
    const Block::Value middle =
        builder.projection(block, {{layer + "self_attn.o_proj", c.hidden}}, c.heads * c.head_dim, x, Block::kInput);
    x = builder.rms_norm(block, layer + "post_attention_layernorm", c.hidden, middle);
    x = builder.projection(block, {{layer + "mlp.gate_up_proj", 2 * c.intermediate}}, c.hidden, x);
    x = builder.gated_activation(block, x);
    builder.projection(block, {{layer + "mlp.down_proj", c.hidden}}, c.intermediate, x, middle);
  }
  builder.head("model.norm", c.tied_embeddings ? "model.embed_tokens" : "lm_head");
}

}  // namespace

const Architecture kPhi3{"phi3", configure, build};

}  // namespace qlora
