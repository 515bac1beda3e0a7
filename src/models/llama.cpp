// Llama 2, 3, 3.1 and 3.2: grouped queries, llama3 RoPE scaling, tied embeddings.
#include <cmath>

#include "qlora/models/architecture.h"
#include "qlora/nn/rope.h"
#include "qlora/nn/swiglu.h"

namespace qlora {
namespace {

void configure(const nlohmann::ordered_json& json, const std::string&, ModelConfig& config) {
  config.attention_bias = json.value("attention_bias", false);
  config.qkv_bias = config.attention_bias;
  config.mlp_bias = json.value("mlp_bias", false);
}

Block::Value attention(DecoderBuilder& builder, Block& block, const std::string& layer, std::int64_t index,
                       const std::shared_ptr<RopeTable>& rope) {
  const ModelConfig& c = builder.config();
  const AttentionShape shape{c.heads, c.kv_heads, c.head_dim, 1.0 / std::sqrt(static_cast<double>(c.head_dim))};
  const std::string name = layer + "self_attn.";
  Block::Value x = builder.rms_norm(block, layer + "input_layernorm", c.hidden, Block::kInput);
  x = builder.projection(block,
                         {{name + "q_proj", shape.query_columns(), c.qkv_bias},
                          {name + "k_proj", shape.kv_columns(), c.qkv_bias},
                          {name + "v_proj", shape.kv_columns(), c.qkv_bias}},
                         c.hidden, x);
  x = block.add(std::make_shared<Rope>(rope, c.heads + c.kv_heads, c.heads + 2 * c.kv_heads, builder.dtype()), {x});
  x = block.add(std::make_shared<Attention>(shape, index, builder.dtype()), {x});
  return builder.projection(block, {{name + "o_proj", c.hidden, c.attention_bias}}, shape.query_columns(), x,
                            Block::kInput);
}

void mlp(DecoderBuilder& builder, Block& block, const std::string& layer, Block::Value input) {
  const ModelConfig& c = builder.config();
  const std::string name = layer + "mlp.";
  Block::Value x = builder.rms_norm(block, layer + "post_attention_layernorm", c.hidden, input);
  x = builder.projection(
      block, {{name + "gate_proj", c.intermediate, c.mlp_bias}, {name + "up_proj", c.intermediate, c.mlp_bias}},
      c.hidden, x);
  x = block.add(std::make_shared<SwiGlu>(c.intermediate, builder.dtype()), {x});
  builder.projection(block, {{name + "down_proj", c.hidden, c.mlp_bias}}, c.intermediate, x, input);
}

}  // namespace

void build_llama_like(DecoderBuilder& builder) {
  const ModelConfig& c = builder.config();
  const auto rope =
      std::make_shared<RopeTable>(c.head_dim, c.rope_base, c.rope_scaling, builder.device(), builder.dtype());
  builder.embedding("model.embed_tokens");
  for (std::int64_t i = 0; i < c.layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    Block& block = builder.begin_block();
    mlp(builder, block, layer, attention(builder, block, layer, i, rope));
  }
  builder.head("model.norm", c.tied_embeddings ? "model.embed_tokens" : "lm_head");
}

const Architecture kLlama{"llama", configure, build_llama_like};

}  // namespace qlora
