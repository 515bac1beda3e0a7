// Mixtral: Mistral with a mixture of experts in place of each MLP, two of eight for a token.
#include <fmt/format.h>

#include "qlora/models/architecture.h"

namespace qlora {
namespace {

void configure(const ConfigFields& fields, ModelConfig& config) {
  if (fields.find<double>("router_jitter_noise").value_or(0.0) != 0.0) {
    throw UsageError(fmt::format("{}: 'router_jitter_noise' is not built yet; set it to 0", fields.origin()));
  }
  read_experts(fields, {8, 2}, config);
  config.expert_intermediate = config.intermediate;
  config.normalized_routing = true;
  config.rope_base = 1'000'000.0;
  if (!fields.find<std::int64_t>("sliding_window")) return;
  config.window = fields.size("sliding_window");
  config.layer_kinds.assign(static_cast<std::size_t>(config.layers), LayerKind::kWindowedAttention);
}

Block::Value feed_forward(DecoderBuilder& builder, Block& block, const std::string& layer, std::int64_t,
                          Block::Value input, Block::Value residual) {
  return expert_mlp(builder, block, layer + "block_sparse_moe.", input, residual, {"w1", "w3", "w2"});
}

}  // namespace

void read_experts(const ConfigFields& fields, const ExpertCounts& otherwise, ModelConfig& config) {
  const char* count = fields.has("num_experts") ? "num_experts" : "num_local_experts";
  config.experts = fields.find<std::int64_t>(count) == 0 ? 0 : fields.size(count, otherwise.experts);
  config.experts_per_token = fields.size("num_experts_per_tok", otherwise.per_token);
  constexpr std::int64_t kMostExperts = 100'000;  // a damaged number must not take all memory
  if (config.experts > kMostExperts / config.layers) {
    throw DataError(fmt::format("{}: '{}' is {}: more than {} in all layers", fields.origin(), count, config.experts,
                                kMostExperts));
  }
  if (config.experts > 0 && config.experts_per_token > config.experts) {
    throw DataError(fmt::format("{}: 'num_experts_per_tok' is {}, there are {} experts", fields.origin(),
                                config.experts_per_token, config.experts));
  }
  if (!fields.flag("output_router_logits", false)) return;
  config.router_loss_weight = fields.find<double>("router_aux_loss_coef").value_or(0.001);
}

Block::Value expert_mlp(DecoderBuilder& builder, Block& block, const std::string& name, Block::Value input,
                        Block::Value residual, const MlpNames& names) {
  const ModelConfig& c = builder.config();
  const Block::Value routing = builder.route(block, name + "gate", input);
  const std::string experts = name + "experts.";
  Block::Value x = builder.dispatch(
      block, experts, {{names.gate, c.expert_intermediate}, {names.up, c.expert_intermediate}}, input, routing);
  x = builder.expert_activation(block, x);
  return builder.combine(block, experts, names.down, x, routing, residual);
}

const Architecture kMixtral{
    "mixtral",
    configure,
    [](DecoderBuilder& builder) { build_llama_like(builder, feed_forward); },
    {{".mlp.", ".block_sparse_moe."}, {".gate_proj", ".w1"}, {".up_proj", ".w3"}, {".down_proj", ".w2"}}};

}  // namespace qlora
