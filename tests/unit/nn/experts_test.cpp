// Routing, its loss and the linears of experts against the same formulas over all experts under torch::autograd,
// float64.
#include "qlora/nn/experts.h"

#include <cmath>
#include <limits>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/variable.h>

#include "qlora/nn/gated_activation.h"
#include "qlora/nn/routing.h"

namespace qlora {
namespace {

using Tensors = std::vector<at::Tensor>;

constexpr std::int64_t kTokens = 7, kTail = 3, kExperts = 5, kPerToken = 2, kHidden = 6, kInner = 4;
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

Batch batch_of_tokens() {
  Batch batch;
  batch.row_bounds = {0, kTokens};
  batch.targets = at::tensor({3, 1, -1, 2}, at::kLong);
  batch.loss_scale = 0.25;  // so that this batch has 3/4 of the step's targets
  batch.training = true;
  return batch;
}

double difference(const at::Tensor& ours, const at::Tensor& want) {
  EXPECT_GT(want.abs().max().item<double>(), 0.0) << "says nothing";
  const double worst = (ours - want).abs().max().item<double>() / want.abs().max().item<double>();
  return std::isnan(worst) ? std::numeric_limits<double>::infinity() : worst;
}

// The views of one operation as a program would give them; gradients come on top of ones where `added`.
OperationViews views_of(const Operation& operation, const Tensors& inputs, bool added = false) {
  const OperationPlan plan = operation.plan({kTokens + kTail, 0});
  OperationViews v;
  v.in = inputs;
  v.out = operation.traits().in_place ? inputs[0] : at::full(plan.output, kNan, plan.dtype);
  for (const BufferSpec& spec : plan.buffers) v.buffers.push_back(at::full(spec.shape, kNan, spec.dtype));
  for (const at::Tensor& input : inputs) {
    v.d_in.push_back(at::full_like(input, added ? 1.0 : kNan));
    v.accumulate.push_back(added);
  }
  return v;
}

// 0 where a token does not go; the last expert gets none.
at::Tensor some_routing() {
  at::Tensor routing = at::zeros({kTokens + kTail, kExperts}, at::kDouble);
  for (std::int64_t t = 0; t < kTokens; ++t) {
    routing[t][t % 4] = 0.3 + 0.1 * static_cast<double>(t);
    routing[t][(t + 1 + t / 4) % 4] = 0.9 - 0.1 * static_cast<double>(t);
  }
  return routing;
}

class Experts : public testing::Test {
 protected:
  Experts() { at::manual_seed(3); }

  Weight parameter(const std::string& name, const Shape& shape) {
    const ParameterSet::Id id = parameters_.add(name, shape, true);
    return Weight::trained(parameters_, id, id);
  }

  // One linear an expert, trained; those of even number carry an adapter on the second half of their outputs.
  std::vector<Projection> linears(const std::string& name, std::int64_t in, std::int64_t out) {
    std::vector<Projection> experts;
    for (std::int64_t e = 0; e < kExperts; ++e) {
      const std::string own = name + std::to_string(e);
      Projection::Spec spec;
      spec.in = in;
      spec.out = out;
      spec.weight = parameter(own, {out, in});
      if (e % 2 == 0) {
        LoraSegment lora;
        lora.begin = out / 2;
        lora.out = out - lora.begin;
        lora.rank = 2;
        lora.scale = 1.5;
        lora.a = parameters_.add(own + ".a", {2, in}, true);
        lora.b = parameters_.add(own + ".b", {lora.out, 2}, true);
        spec.adapters = {lora};
      }
      experts.emplace_back(std::move(spec), parameters_, at::kDouble);
    }
    return experts;
  }

  Tensors leaves() {
    parameters_.allocate(at::kCPU, at::kDouble);
    at::Tensor values = parameters_.values();
    values.copy_(at::randn(values.sizes(), at::kDouble));
    parameters_.refresh_compute();
    Tensors all;
    for (std::size_t i = 0; i < parameters_.infos().size(); ++i)
      all.push_back(parameters_.value(static_cast<ParameterSet::Id>(i)).clone().set_requires_grad(true));
    return all;
  }

  at::Tensor weight(const Tensors& leaves, const std::string& name) const {
    const auto leaf = [&](const std::string& n) { return leaves[static_cast<std::size_t>(*parameters_.find(n))]; };
    at::Tensor w = leaf(name);
    if (!parameters_.find(name + ".a")) return w;
    const at::Tensor delta = 1.5 * at::matmul(leaf(name + ".b"), leaf(name + ".a"));
    return w + at::cat({at::zeros({w.size(0) - delta.size(0), w.size(1)}, at::kDouble), delta});
  }

  ParameterSet parameters_;
  const Batch batch_ = batch_of_tokens();
};

TEST_F(Experts, RowsLieExpertAfterExpert) {
  const ExpertRows rows =
      expert_rows(at::tensor({0.0, 0.5, 0.0, 0.2, 0.0, 0.0, 0.1, 0.9, 0.0}, at::kDouble).view({3, 3}));
  EXPECT_TRUE(rows.tokens.equal(at::tensor({1, 2, 0, 2}, at::kLong)));
  EXPECT_TRUE(rows.weights.equal(at::tensor({0.2, 0.1, 0.5, 0.9}, at::kDouble).unsqueeze(1)));
  EXPECT_THAT(rows.bounds, testing::ElementsAre(0, 2, 4, 4));
}

TEST_F(Experts, EqualAutogradOverAllOfThem) {
  DispatchProjection dispatch(linears("gate_up", kHidden, 2 * kInner), kPerToken, at::kDouble);
  GatedActivation activation(Activation::kSilu, kInner, at::kDouble, kPerToken);
  CombineProjection combine(linears("down", kInner, kHidden), kPerToken, at::kDouble);
  const Tensors parameters = leaves();
  const auto random = [] { return at::randn({kTokens + kTail, kHidden}, at::kDouble); };
  const at::Tensor x = random().set_requires_grad(true), residual = random();
  const at::Tensor routing = some_routing().set_requires_grad(true);
  at::Tensor want = residual;
  for (std::int64_t e = 0; e < kExperts; ++e) {
    const auto halves = at::matmul(x, weight(parameters, "gate_up" + std::to_string(e)).t()).chunk(2, -1);
    const at::Tensor h = at::silu(halves[0]) * halves[1];
    want = want + routing.narrow(1, e, 1) * at::matmul(h, weight(parameters, "down" + std::to_string(e)).t());
  }
  const at::Tensor d_out = random();
  Tensors roots = parameters;
  roots.insert(roots.end(), {x, routing});
  Tensors gradients = torch::autograd::grad({(want * d_out).sum()}, roots, {}, {}, false, /*allow_unused=*/true);
  gradients.back() = gradients.back() * (routing != 0).to(at::kDouble);  // what is 0 is no function of the router

  for (const bool added : {false, true}) {
    SCOPED_TRACE(added ? "added" : "alone");
    parameters_.zero_grad();
    OperationViews up = views_of(dispatch, {x.detach(), routing.detach()}, added);
    dispatch.forward(batch_, up);
    OperationViews middle = views_of(activation, {up.out}, added);
    activation.forward(batch_, middle);
    EXPECT_FALSE(up.out.isnan().any().item<bool>());
    OperationViews down = views_of(combine, {middle.out, routing.detach(), residual}, added);
    combine.forward(batch_, down);
    EXPECT_LT(difference(down.out, want), 1e-12);

    down.d_out = d_out;
    combine.backward(batch_, down);
    middle.d_out = down.d_in[0] - (added ? 1.0 : 0.0);
    activation.backward(batch_, middle);
    up.d_out = middle.d_in[0] - (added ? 1.0 : 0.0);
    dispatch.backward(batch_, up);
    EXPECT_LT(difference(up.d_in[0] - (added ? 1.0 : 0.0), gradients[gradients.size() - 2]), 1e-12);
    EXPECT_LT(difference(down.d_in[1] - (added ? 1.0 : 0.0), gradients.back()), 1e-12);
    EXPECT_EQ((up.d_in[1] - (added ? 1.0 : 0.0)).abs().max().item<double>(), 0.0);
    if (added) {
      EXPECT_LT(difference(down.d_in[2] - 1.0, d_out), 1e-12);
    }
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const at::Tensor ours = parameters_.grad(static_cast<ParameterSet::Id>(i));
      const bool idle = parameters_.infos()[i].name.find('4') != std::string::npos;  // the expert that gets no token
      if (idle) {
        EXPECT_EQ(ours.abs().max().item<double>(), 0.0) << parameters_.infos()[i].name;
      } else {
        EXPECT_LT(difference(ours, gradients[i]), 1e-12) << parameters_.infos()[i].name;
      }
    }
  }
}

// One that gets no token has no weights here: to decode it would end the test.
TEST_F(Experts, WithoutTokensAreNotDecoded) {
  WeightStore store(at::kCPU, at::kFloat, WeightPolicy{.quantize = true});
  std::vector<Projection> experts;
  for (std::int64_t e = 0; e < kExperts; ++e) {
    const std::string name = "expert" + std::to_string(e);
    Projection::Spec spec;
    spec.in = kHidden;
    spec.out = kInner;
    spec.weight = Weight::frozen(store, store.add({{name, {kInner, kHidden}, true}}));
    if (e + 1 < kExperts) store.put(name, at::randn({kInner, kHidden}));
    experts.emplace_back(std::move(spec), parameters_, at::kFloat);
  }
  EXPECT_THAT(store.missing(), testing::ElementsAre("expert4"));
  DispatchProjection dispatch(std::move(experts), kPerToken, at::kFloat);
  OperationViews v = views_of(dispatch, {at::randn({kTokens + kTail, kHidden}), some_routing().to(at::kFloat)});
  dispatch.forward(batch_, v);
  v.d_out = at::randn_like(v.out);
  dispatch.backward(batch_, v);
  EXPECT_TRUE(at::isfinite(v.d_in[0]).all().item<bool>());
}

at::Tensor routed(const at::Tensor& logits, bool normalized) {
  const at::Tensor p = at::softmax(logits, -1);
  const at::Tensor chosen = at::zeros_like(p).scatter_(1, std::get<1>(at::topk(p, kPerToken, -1)), 1.0);
  const at::Tensor weights = p * chosen;
  return normalized ? weights / weights.sum(-1, true) : weights;
}

TEST_F(Experts, RoutingEqualsAutograd) {
  for (const bool normalized : {false, true}) {
    for (const bool added : {false, true}) {
      SCOPED_TRACE(std::to_string(normalized) + std::to_string(added));
      Routing routing({kExperts, kPerToken, normalized, nullptr, 0}, at::kDouble);
      const at::Tensor logits = (2.0 * at::randn({kTokens + kTail, kExperts}, at::kDouble)).set_requires_grad(true);
      const at::Tensor want = routed(logits, normalized).slice(0, 0, kTokens);
      const at::Tensor d_out = at::randn({kTokens + kTail, kExperts}, at::kDouble) * (routed(logits, normalized) != 0);
      d_out.slice(0, kTokens).zero_();
      const at::Tensor gradient = torch::autograd::grad({(want * d_out.slice(0, 0, kTokens)).sum()}, {logits})[0];
      OperationViews v = views_of(routing, {logits.detach()}, added);
      routing.forward(batch_, v);
      EXPECT_LT(difference(v.out.slice(0, 0, kTokens), want), 1e-12);
      EXPECT_EQ(v.out.slice(0, kTokens).abs().max().item<double>(), 0.0);
      v.d_out = d_out;
      routing.backward(batch_, v);
      EXPECT_LT(difference(v.d_in[0] - (added ? 1.0 : 0.0), gradient), 1e-12);
    }
  }
}

// Over all layers together; the tail, and the targets that other batches of the step have, do not count.
TEST_F(Experts, BalanceEqualsAutograd) {
  constexpr std::int64_t kLayers = 2;
  constexpr double kWeight = 0.02;
  for (const bool normalized : {false, true}) {
    const auto balance = std::make_shared<RouterBalance>(kLayers, kExperts, kWeight, at::kCPU, at::kDouble);
    std::vector<Routing> routers;
    std::vector<OperationViews> views;
    Tensors logits;
    at::Tensor counts = at::zeros({kExperts}, at::kDouble), sums = counts;
    for (std::int64_t i = 0; i < kLayers; ++i) {
      logits.push_back(at::randn({kTokens + kTail, kExperts}, at::kDouble).set_requires_grad(true));
      const at::Tensor real = logits.back().slice(0, 0, kTokens);
      counts = counts + (routed(real, true) != 0).sum(0);
      sums = sums + at::softmax(real, -1).sum(0);
      routers.push_back(Routing({kExperts, kPerToken, normalized, balance, i}, at::kDouble));
      views.push_back(views_of(routers.back(), {logits.back().detach()}));
    }
    const double n = kLayers * kTokens;
    const at::Tensor want = 0.75 * kWeight * double(kExperts) * (counts / n * (sums / n)).sum();
    const Tensors gradients = torch::autograd::grad({want}, logits);
    for (std::size_t i = 0; i < routers.size(); ++i) {
      routers[i].forward(batch_, views[i]);
      routers[i].forward(batch_, views[i]);  // as where it is made again
    }
    RouterLoss loss(balance, at::kDouble);
    OperationViews total = views_of(loss, {at::full({1}, 3.0, at::kDouble)});
    loss.forward(batch_, total);
    EXPECT_NEAR(total.out.item<double>() - 3.0, want.item<double>(), 1e-14);
    for (std::size_t i = 0; i < routers.size(); ++i) {
      views[i].d_out = at::zeros({kTokens + kTail, kExperts}, at::kDouble);
      routers[i].backward(batch_, views[i]);
      EXPECT_LT(difference(views[i].d_in[0], gradients[i]), 1e-12);
    }
  }
}

}  // namespace
}  // namespace qlora
