// LFM2: most layers mix tokens with a gated short convolution, the others with attention over normed heads.
#include <algorithm>

#include "qlora/models/architecture.h"

namespace qlora {
namespace {

// The width that config.json means where it asks for an adjustment: 2/3 of it, times a factor, rounded up; null: no
// factor, not rounded.
std::int64_t adjusted_width(const ConfigFields& fields, std::int64_t width) {
  if (!fields.flag("block_auto_adjust_ff_dim", true)) return width;
  width = 2 * width / 3;
  if (fields.has("block_ffn_dim_multiplier") && !fields.find<double>("block_ffn_dim_multiplier")) return width;
  const double factor = fields.positive("block_ffn_dim_multiplier", 1.0);
  const std::int64_t multiple = fields.size("block_multiple_of", 256);
  width = static_cast<std::int64_t>(factor * static_cast<double>(width));
  return (width + multiple - 1) / multiple * multiple;
}

std::vector<LayerKind> layer_kinds(const ConfigFields& fields, std::int64_t layers) {
  const auto attending = fields.numbers("full_attn_idxs");
  std::vector<LayerKind> kinds = read_layer_kinds(fields, layers, [](std::int64_t) { return false; });
  if (fields.strings("layer_types") || !attending) return kinds;
  for (std::int64_t i = 0; i < layers; ++i) {
    const bool attends = std::find(attending->begin(), attending->end(), static_cast<double>(i)) != attending->end();
    if (!attends) kinds[static_cast<std::size_t>(i)] = LayerKind::kConvolution;
  }
  return kinds;
}

void configure(const ConfigFields& fields, ModelConfig& config) {
  config.intermediate = adjusted_width(fields, fields.size("block_ff_dim", fields.size("intermediate_size", 12288)));
  config.norm_epsilon = fields.positive("norm_eps", 1e-5);
  config.tied_embeddings = fields.flag("tie_embedding", fields.flag("tie_word_embeddings", true));
  config.rope_base = 1'000'000.0;
  config.head_norms = true;
  config.convolution_size = fields.size("conv_L_cache", 3);
  config.convolution_bias = fields.flag("conv_bias", false);
  config.layer_kinds = layer_kinds(fields, config.layers);
}

Block::Value mix_tokens(DecoderBuilder& builder, Block& block, const std::string& layer, std::int64_t index,
                        Block::Value x) {
  const ModelConfig& c = builder.config();
  if (c.kind(index) != LayerKind::kConvolution) {
    x = self_attention(builder, block, layer + "self_attn.", index, x, "_layernorm");
    return builder.projection(block, {{layer + "self_attn.out_proj", c.hidden}}, c.heads * c.head_dim, x,
                              Block::kInput);
  }
  x = builder.projection(block, {{layer + "conv.in_proj", 3 * c.hidden, c.convolution_bias}}, c.hidden, x);
  x = builder.short_convolution(block, layer + "conv.conv", index, x);
  return builder.projection(block, {{layer + "conv.out_proj", c.hidden, c.convolution_bias}}, c.hidden, x,
                            Block::kInput);
}

void build(DecoderBuilder& builder) {
  const ModelConfig& c = builder.config();
  builder.embedding("model.embed_tokens");
  for (std::int64_t i = 0; i < c.layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    Block& block = builder.begin_block();
    const Block::Value normed = builder.rms_norm(block, layer + "operator_norm", c.hidden, Block::kInput);
    const Block::Value middle = mix_tokens(builder, block, layer, i, normed);
    const Block::Value x = builder.rms_norm(block, layer + "ffn_norm", c.hidden, middle);
    gated_mlp(builder, block, layer + "feed_forward.", x, middle, {"w1", "w3", "w2"});
  }
  builder.head("model.embedding_norm", c.tied_embeddings ? "model.embed_tokens" : "lm_head");
}

}  // namespace

const Architecture kLfm2{"lfm2", configure, build};

}  // namespace qlora
