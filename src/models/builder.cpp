#include "qlora/models/builder.h"

#include <cmath>

#include "qlora/nn/embedding.h"
#include "qlora/nn/experts.h"
#include "qlora/nn/gated_activation.h"
#include "qlora/nn/head_norm.h"
#include "qlora/nn/residual.h"
#include "qlora/nn/short_convolution.h"

namespace qlora {

Weight DecoderBuilder::matrix(const std::vector<WeightMember>& members) {
  if (!plan_.full) return Weight::frozen(*decoder_.store_, decoder_.store_->add(members));
  ParameterSet::Id first = -1;
  ParameterSet::Id last = -1;
  for (const WeightMember& member : members) {
    const bool decays = member.shape.size() > 1;
    last = decoder_.parameters_.find(member.name).value_or(-1);
    if (last < 0) last = decoder_.parameters_.add(member.name, member.shape, decays);
    if (first < 0) first = last;
  }
  return Weight::trained(decoder_.parameters_, first, last);
}

Weight DecoderBuilder::vectors(const std::vector<Vector>& members) {
  std::vector<WeightMember> all;
  for (const Vector& v : members) all.push_back({v.name, {v.size}, false});
  return matrix(all);
}

Weight DecoderBuilder::whole_or_frozen(const std::string& name, const Shape& shape, const std::string& stored) {
  if (plan_.full || !plan_.whole || !plan_.whole(name)) return matrix({{stored + ".weight", shape, false}});
  const ParameterSet::Id id = decoder_.parameters_.add(name + ".weight", shape, shape.size() > 1);
  decoder_.whole_.push_back(id);
  return Weight::trained(decoder_.parameters_, id, id);
}

Weight DecoderBuilder::norm_weight(const std::string& name, std::int64_t columns) {
  decoder_.modules_.norms.push_back(name);
  return whole_or_frozen(name, {columns}, name);
}

void DecoderBuilder::embedding(const std::string& name) {
  const ModelConfig& c = config();
  decoder_.modules_.embedding = name;
  Embedding::Spec spec;
  spec.table = whole_or_frozen(name, {c.vocabulary, c.hidden}, name);
  spec.columns = c.hidden;
  spec.scale = c.embedding_scale;
  const auto segments = adapters({{name, c.hidden}}, c.vocabulary, /*embedding=*/true);
  if (!segments.empty()) spec.adapter = segments.front();
  spec.noise = plan_.embedding_noise;
  spec.seed = plan_.seed;
  begin_block().add(std::make_shared<Embedding>(std::move(spec), decoder_.parameters_, dtype()), {});
}

Block& DecoderBuilder::begin_block() {
  return body_.emplace_back();
}

Block::Value DecoderBuilder::rms_norm(Block& block, const std::string& name, std::int64_t columns, Block::Value input) {
  const Weight weight = norm_weight(name, columns);
  const ModelConfig& c = config();
  return block.add(std::make_shared<RmsNorm>(weight, columns, c.norm_epsilon, dtype(), c.norm_offset), {input});
}

Block::Value DecoderBuilder::head_norm(Block& block, const std::string& query, const std::string& key,
                                       Block::Value qkv) {
  const ModelConfig& c = config();
  const HeadNorm::Spec spec{
      c.heads,        c.kv_heads,   c.head_dim, norm_weight(query, c.head_dim), norm_weight(key, c.head_dim),
      c.norm_epsilon, c.norm_offset};
  return block.add(std::make_shared<HeadNorm>(spec, dtype()), {qkv});
}

AttentionShape DecoderBuilder::attention_shape(std::int64_t layer) const {
  const ModelConfig& c = config();
  const double scale = c.attention_scale > 0.0 ? c.attention_scale : 1.0 / std::sqrt(static_cast<double>(c.head_dim));
  const std::int64_t window = c.kind(layer) == LayerKind::kWindowedAttention ? c.window : 0;
  return {c.heads, c.kv_heads, c.head_dim, scale, window, c.attention_softcap};
}

std::shared_ptr<RopeTable> DecoderBuilder::rope_table(std::int64_t layer) {
  const ModelConfig& c = config();
  const bool windowed = c.windowed_rope_base > 0.0 && c.kind(layer) == LayerKind::kWindowedAttention;
  std::shared_ptr<RopeTable>& table = windowed ? windowed_rope_ : rope_;
  if (!table) {
    table = std::make_shared<RopeTable>(c.rotary_dim(), windowed ? c.windowed_rope_base : c.rope_base,
                                        windowed ? RopeScaling{} : c.rope_scaling, decoder_.store_->tensor_device(),
                                        dtype());
  }
  return table;
}

Block::Value DecoderBuilder::attention(Block& block, std::int64_t layer, Block::Value qkv) {
  const ModelConfig& c = config();
  if (c.rotates(layer)) {
    qkv = block.add(
        std::make_shared<Rope>(rope_table(layer), c.heads + c.kv_heads, c.heads + 2 * c.kv_heads, dtype(), c.head_dim),
        {qkv});
  }
  return block.add(std::make_shared<Attention>(attention_shape(layer), layer, dtype()), {qkv});
}

Block::Value DecoderBuilder::gated_activation(Block& block, Block::Value gate_up) {
  const ModelConfig& c = config();
  return block.add(std::make_shared<GatedActivation>(c.activation, c.intermediate, dtype()), {gate_up});
}

Block::Value DecoderBuilder::short_convolution(Block& block, const std::string& name, std::int64_t layer,
                                               Block::Value input) {
  const ModelConfig& c = config();
  ShortConvolution::Spec spec;
  spec.columns = c.hidden;
  spec.length = c.convolution_size;
  spec.weight = matrix({{name + ".weight", {c.hidden, 1, c.convolution_size}, false}});
  if (c.convolution_bias) spec.bias = vectors({{name + ".bias", c.hidden}});
  spec.layer = layer;
  return block.add(std::make_shared<ShortConvolution>(spec, dtype()), {input});
}

Block::Value DecoderBuilder::add(Block& block, Block::Value x, Block::Value residual) {
  return block.add(std::make_shared<Residual>(config().hidden, config().residual_scale, dtype()), {x, residual});
}

Block::Value DecoderBuilder::projection(Block& block, const std::vector<Linear>& linears, std::int64_t in,
                                        Block::Value input, std::optional<Block::Value> residual) {
  if (residual && config().residual_scale != 1.0) return add(block, projection(block, linears, in, input), *residual);
  const auto operation = std::make_shared<Projection>(make_projection(linears, in, residual.has_value()));
  return block.add(operation,
                   residual ? std::vector<Block::Value>{input, *residual} : std::vector<Block::Value>{input});
}

Projection DecoderBuilder::make_projection(const std::vector<Linear>& linears, std::int64_t in, bool residual,
                                           std::optional<Weight> weight) {
  Projection::Spec spec;
  spec.in = in;
  spec.residual = residual;
  std::vector<WeightMember> members;
  std::vector<Vector> biases;
  for (const Linear& linear : linears) {
    members.push_back({linear.name + ".weight", {linear.out, in}, true});
    decoder_.modules_.linears.push_back(linear.name);
    if (linear.bias) biases.push_back({linear.name + ".bias", linear.out});
    spec.out += linear.out;
  }
  spec.weight = weight ? *weight : matrix(members);
  if (!biases.empty()) spec.bias = vectors(biases);
  spec.adapters = adapters(linears, in);
  return {std::move(spec), decoder_.parameters_, dtype()};
}

Block::Value DecoderBuilder::route(Block& block, const std::string& name, Block::Value input) {
  const ModelConfig& c = config();
  decoder_.modules_.routers.push_back(name);
  const Weight weight = whole_or_frozen(name, {c.experts, c.hidden}, name);
  const Block::Value logits = block.add(
      std::make_shared<Projection>(make_projection({{name, c.experts}}, c.hidden, /*residual=*/false, weight)),
      {input});
  if (c.router_loss_weight != 0.0 && !balance_) {
    std::int64_t layers = 0;
    for (std::int64_t i = 0; i < c.layers; ++i) layers += c.has_experts(i) ? 1 : 0;
    balance_ = std::make_shared<RouterBalance>(layers, c.experts, c.router_loss_weight,
                                               decoder_.store_->tensor_device(), accumulation_dtype(dtype()));
  }
  const Routing::Spec spec{c.experts, c.experts_per_token, c.normalized_routing, balance_, routers_++};
  return block.add(std::make_shared<Routing>(spec, dtype()), {logits});
}

std::vector<Projection> DecoderBuilder::expert_projections(const std::string& prefix,
                                                           const std::vector<Linear>& linears, std::int64_t in) {
  std::vector<Projection> experts;
  for (std::int64_t e = 0; e < config().experts; ++e) {
    std::vector<Linear> own = linears;
    for (Linear& linear : own) {
      linear.name = prefix + std::to_string(e) + "." + linear.name;
      decoder_.modules_.experts.push_back(linear.name);
    }
    experts.push_back(make_projection(own, in, /*residual=*/false));
  }
  return experts;
}

Block::Value DecoderBuilder::dispatch(Block& block, const std::string& prefix, const std::vector<Linear>& linears,
                                      Block::Value input, Block::Value routing) {
  const ModelConfig& c = config();
  return block.add(
      std::make_shared<DispatchProjection>(expert_projections(prefix, linears, c.hidden), c.experts_per_token, dtype()),
      {input, routing});
}

Block::Value DecoderBuilder::expert_activation(Block& block, Block::Value gate_up) {
  const ModelConfig& c = config();
  return block.add(std::make_shared<GatedActivation>(c.activation, c.expert_intermediate, dtype(), c.experts_per_token),
                   {gate_up});
}

Block::Value DecoderBuilder::combine(Block& block, const std::string& prefix, const std::string& linear,
                                     Block::Value input, Block::Value routing, Block::Value residual) {
  const ModelConfig& c = config();
  return block.add(
      std::make_shared<CombineProjection>(expert_projections(prefix, {{linear, c.hidden}}, c.expert_intermediate),
                                          c.experts_per_token, dtype()),
      {input, routing, residual});
}

// All A first, then all B: the A of one projection are one matrix.
std::vector<LoraSegment> DecoderBuilder::adapters(const std::vector<Linear>& linears, std::int64_t in, bool embedding) {
  std::vector<LoraSegment> segments;
  if (plan_.full || !plan_.lora) return segments;
  std::int64_t begin = 0;
  ParameterSet& parameters = decoder_.parameters_;
  for (const Linear& linear : linears) {
    if (const auto settings = plan_.lora(linear.name)) {
      const auto number = static_cast<std::uint32_t>(decoder_.adapters_.size());
      decoder_.adapters_.push_back({linear.name, in, linear.out, *settings, embedding, -1, -1, -1});
      segments.push_back(
          {begin, linear.out, settings->rank, settings->scale, settings->dropout, {plan_.seed, number}, -1, -1, -1});
    }
    begin += linear.out;
  }
  const auto place = [&](const LoraSegment& s) -> AdapterPlace& { return decoder_.adapters_[s.key.linear]; };
  const std::string a = embedding ? ".lora_embedding_A" : ".lora_A.weight";
  const std::string b = embedding ? ".lora_embedding_B" : ".lora_B.weight";
  for (LoraSegment& s : segments) s.a = place(s).a = parameters.add(place(s).linear + a, {s.rank, in}, true);
  for (LoraSegment& s : segments) s.b = place(s).b = parameters.add(place(s).linear + b, {s.out, s.rank}, true);
  for (LoraSegment& s : segments) {
    if (!place(s).settings.dora) continue;
    s.magnitude = place(s).magnitude = parameters.add(place(s).linear + ".lora_magnitude_vector", {s.out}, true);
  }
  return segments;
}

void DecoderBuilder::head(const std::string& norm, const std::string& head) {
  const ModelConfig& c = config();
  RmsNorm final_norm(norm_weight(norm, c.hidden), c.hidden, c.norm_epsilon, dtype(), c.norm_offset);
  // Tied or not, the head is adapted and trained as a module of its own, as PEFT has it.
  decoder_.modules_.head = "lm_head";
  Head::Spec spec;
  spec.weight = whole_or_frozen("lm_head", {c.vocabulary, c.hidden}, head);
  spec.vocabulary = c.vocabulary;
  spec.transform = {c.logit_scale, c.logit_softcap};
  const auto segments = adapters({{"lm_head", c.vocabulary}}, c.hidden);
  if (!segments.empty()) spec.adapter = segments.front();
  const auto shared =
      std::make_shared<const Head>(std::move(final_norm), std::move(spec), decoder_.parameters_, dtype());
  const auto with = [&](std::shared_ptr<Operation> last) {
    std::vector<Block> blocks = body_;
    blocks.emplace_back().add(std::move(last), {Block::kInput});
    return blocks;
  };
  decoder_.loss_ = with(std::make_shared<LossHead>(shared));
  if (balance_) {
    Block& last = decoder_.loss_.back();
    last.add(std::make_shared<RouterLoss>(balance_, dtype()), {last.output()});
  }
  decoder_.nll_ = with(std::make_shared<NllHead>(shared));
  decoder_.logits_ = with(std::make_shared<LogitsHead>(shared));
}

}  // namespace qlora
