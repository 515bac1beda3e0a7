#include "qlora/models/builder.h"

#include "qlora/nn/embedding.h"

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

void DecoderBuilder::embedding(const std::string& name) {
  const ModelConfig& c = config();
  Block& block = begin_block();
  block.add(
      std::make_shared<Embedding>(matrix({{name + ".weight", {c.vocabulary, c.hidden}, false}}), c.hidden, dtype()),
      {});
}

Block& DecoderBuilder::begin_block() {
  return body_.emplace_back();
}

Block::Value DecoderBuilder::rms_norm(Block& block, const std::string& name, std::int64_t columns, Block::Value input) {
  const Weight weight = vectors({{name + ".weight", columns}});
  return block.add(std::make_shared<RmsNorm>(weight, columns, config().norm_epsilon, dtype()), {input});
}

Block::Value DecoderBuilder::projection(Block& block, const std::vector<Linear>& linears, std::int64_t in,
                                        Block::Value input, std::optional<Block::Value> residual) {
  Projection::Spec spec;
  spec.in = in;
  spec.residual = residual.has_value();
  std::vector<WeightMember> members;
  std::vector<Vector> biases;
  for (const Linear& linear : linears) {
    members.push_back({linear.name + ".weight", {linear.out, in}, true});
    if (linear.bias) biases.push_back({linear.name + ".bias", linear.out});
    spec.out += linear.out;
  }
  spec.weight = matrix(members);
  if (!biases.empty()) spec.bias = vectors(biases);
  spec.adapters = adapters(linears, in);
  const auto operation = std::make_shared<Projection>(std::move(spec), decoder_.parameters_, dtype());
  return block.add(operation,
                   residual ? std::vector<Block::Value>{input, *residual} : std::vector<Block::Value>{input});
}

// All A first, then all B: the A of one projection are one matrix.
std::vector<LoraSegment> DecoderBuilder::adapters(const std::vector<Linear>& linears, std::int64_t in) {
  std::vector<LoraSegment> segments;
  if (plan_.full || !plan_.lora) return segments;
  std::int64_t begin = 0;
  ParameterSet& parameters = decoder_.parameters_;
  for (const Linear& linear : linears) {
    if (const auto settings = plan_.lora(linear.name)) {
      const auto number = static_cast<std::uint32_t>(decoder_.adapters_.size());
      decoder_.adapters_.push_back({linear.name, in, linear.out, *settings, -1, -1});
      segments.push_back(
          {begin, linear.out, settings->rank, settings->scale, settings->dropout, {plan_.seed, number}, -1, -1});
    }
    begin += linear.out;
  }
  const auto place = [&](const LoraSegment& s) -> AdapterPlace& { return decoder_.adapters_[s.key.linear]; };
  for (LoraSegment& s : segments) {
    s.a = place(s).a = parameters.add(place(s).linear + ".lora_A.weight", {s.rank, in}, true);
  }
  for (LoraSegment& s : segments) {
    s.b = place(s).b = parameters.add(place(s).linear + ".lora_B.weight", {s.out, s.rank}, true);
  }
  return segments;
}

void DecoderBuilder::head(const std::string& norm, const std::string& head) {
  const ModelConfig& c = config();
  RmsNorm final_norm(vectors({{norm + ".weight", c.hidden}}), c.hidden, c.norm_epsilon, dtype());
  const Weight weight = matrix({{head + ".weight", {c.vocabulary, c.hidden}, false}});
  const auto shared = std::make_shared<const Head>(std::move(final_norm), weight, c.vocabulary, dtype());
  const auto with = [&](std::shared_ptr<Operation> last) {
    std::vector<Block> blocks = body_;
    blocks.emplace_back().add(std::move(last), {Block::kInput});
    return blocks;
  };
  decoder_.loss_ = with(std::make_shared<LossHead>(shared));
  decoder_.nll_ = with(std::make_shared<NllHead>(shared));
  decoder_.logits_ = with(std::make_shared<LogitsHead>(shared));
}

}  // namespace qlora
