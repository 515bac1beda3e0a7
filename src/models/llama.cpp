// Llama 2, 3, 3.1 and 3.2: grouped queries, llama3 RoPE scaling, tied embeddings.
#include "qlora/models/architecture.h"

namespace qlora {
namespace {

void configure(const ConfigFields& fields, ModelConfig& config) {
  config.attention_bias = fields.flag("attention_bias", false);
  config.qkv_bias = config.attention_bias;
  config.mlp_bias = fields.flag("mlp_bias", false);
}

}  // namespace

Block::Value self_attention(DecoderBuilder& builder, Block& block, const std::string& name, std::int64_t layer,
                            Block::Value input, const std::string& norms) {
  const ModelConfig& c = builder.config();
  const AttentionShape shape = builder.attention_shape(layer);
  Block::Value qkv = builder.projection(block,
                                        {{name + "q_proj", shape.query_columns(), c.qkv_bias},
                                         {name + "k_proj", shape.kv_columns(), c.qkv_bias},
                                         {name + "v_proj", shape.kv_columns(), c.qkv_bias}},
                                        c.hidden, input);
  if (c.head_norms) qkv = builder.head_norm(block, name + "q" + norms, name + "k" + norms, qkv);
  return builder.attention(block, layer, qkv);
}

Block::Value gated_mlp(DecoderBuilder& builder, Block& block, const std::string& name, Block::Value input,
                       std::optional<Block::Value> residual, const MlpNames& names) {
  const ModelConfig& c = builder.config();
  Block::Value x = builder.projection(
      block, {{name + names.gate, c.intermediate, c.mlp_bias}, {name + names.up, c.intermediate, c.mlp_bias}}, c.hidden,
      input);
  x = builder.gated_activation(block, x);
  return builder.projection(block, {{name + names.down, c.hidden, c.mlp_bias}}, c.intermediate, x, residual);
}

void build_llama_like(DecoderBuilder& builder, FeedForward feed_forward) {
  const ModelConfig& c = builder.config();
  builder.embedding("model.embed_tokens");
  for (std::int64_t i = 0; i < c.layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    Block& block = builder.begin_block();
    Block::Value x = builder.rms_norm(block, layer + "input_layernorm", c.hidden, Block::kInput);
    x = self_attention(builder, block, layer + "self_attn.", i, x);
    const Block::Value middle = builder.projection(block, {{layer + "self_attn.o_proj", c.hidden, c.attention_bias}},
                                                   c.heads * c.head_dim, x, Block::kInput);
    x = builder.rms_norm(block, layer + "post_attention_layernorm", c.hidden, middle);
    feed_forward(builder, block, layer, i, x, middle);
  }
  builder.head("model.norm", c.tied_embeddings ? "model.embed_tokens" : "lm_head");
}

void build_llama_like(DecoderBuilder& builder) {
  build_llama_like(builder,
                   [](DecoderBuilder& b, Block& block, const std::string& layer, std::int64_t, Block::Value input,
                      Block::Value residual) { return gated_mlp(b, block, layer + "mlp.", input, residual); });
}

const Architecture kLlama{"llama", configure, build_llama_like};

}  // namespace qlora
