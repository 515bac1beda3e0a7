// Qwen3-MoE: Qwen3 with a mixture of many small experts in place of most layers' MLPs.
#include <algorithm>

#include <fmt/format.h>

#include "qlora/models/architecture.h"

namespace qlora {
namespace {

std::vector<bool> expert_layers(const ConfigFields& fields, std::int64_t layers) {
  const std::vector<double> dense = fields.numbers("mlp_only_layers").value_or(std::vector<double>{});
  const std::int64_t step = fields.size("decoder_sparse_step", 1);
  std::vector<bool> has;
  for (std::int64_t i = 0; i < layers; ++i) {
    const bool is_dense = std::find(dense.begin(), dense.end(), static_cast<double>(i)) != dense.end();
    has.push_back(!is_dense && (i + 1) % step == 0);
  }
  return has;
}

void configure(const ConfigFields& fields, ModelConfig& config) {
  config.head_norms = true;
  config.attention_bias = fields.flag("attention_bias", false);
  config.qkv_bias = config.attention_bias;
  read_experts(fields, {128, 8}, config);
  config.expert_intermediate = fields.size("moe_intermediate_size", 768);
  config.normalized_routing = fields.flag("norm_topk_prob", false);
  config.expert_layers = expert_layers(fields, config.layers);
  if (!fields.flag("use_sliding_window", false) || !fields.find<std::int64_t>("sliding_window")) return;
  config.window = fields.size("sliding_window");
  config.layer_kinds.assign(static_cast<std::size_t>(config.layers), LayerKind::kWindowedAttention);
}

Block::Value feed_forward(DecoderBuilder& builder, Block& block, const std::string& layer, std::int64_t index,
                          Block::Value input, Block::Value residual) {
  if (!builder.config().has_experts(index)) return gated_mlp(builder, block, layer + "mlp.", input, residual);
  return expert_mlp(builder, block, layer + "mlp.", input, residual);
}

}  // namespace

const Architecture kQwen3Moe{"qwen3_moe", configure,
                             [](DecoderBuilder& builder) { build_llama_like(builder, feed_forward); }};

}  // namespace qlora
