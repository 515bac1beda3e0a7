// A projection with adapters, dropout, bias and residual against the same formula under torch::autograd, in float64.
#include "qlora/nn/projection.h"

#include <cmath>
#include <map>

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/variable.h>

#include "qlora/nn/program.h"

namespace qlora {
namespace {

constexpr std::int64_t kIn = 10, kTokens = 16;

struct Case {
  std::string name;
  std::vector<LoraSegment> adapters;  // begin, out, rank, scale, dropout, key
  bool full = false, bias = false, residual = false, accumulate = false, dora = false;
};

class ProjectionGradients : public testing::TestWithParam<Case> {
 protected:
  ProjectionGradients() : store_(at::kCPU, at::kDouble, WeightPolicy{}) {
    at::manual_seed(3);
    const Case& c = GetParam();
    Projection::Spec spec;
    spec.in = kIn;
    spec.out = 12;
    spec.residual = c.residual;
    add_weights(spec);
    spec.adapters = c.adapters;
    for (std::size_t i = 0; i < spec.adapters.size(); ++i) {
      LoraSegment& s = spec.adapters[i];
      s.a = parameters_.add(fmt::format("a{}", i), {s.rank, kIn}, true);
    }
    for (std::size_t i = 0; i < spec.adapters.size(); ++i) {
      LoraSegment& s = spec.adapters[i];
      s.b = parameters_.add(fmt::format("b{}", i), {s.out, s.rank}, true);
    }
    for (std::size_t i = 0; c.dora && i < spec.adapters.size(); ++i) {
      spec.adapters[i].magnitude = parameters_.add(fmt::format("m{}", i), {spec.adapters[i].out}, true);
    }
    parameters_.allocate(at::kCPU, at::kDouble);
    parameters_.values().copy_(at::randn({parameters_.size()}, at::kDouble));
    parameters_.refresh_compute();
    segments_ = spec.adapters;
    projection_ = std::make_unique<Projection>(spec, parameters_, at::kDouble);
  }

  void add_weights(Projection::Spec& spec) {
    const Case& c = GetParam();
    if (c.full) {
      const auto w = parameters_.add("w", {spec.out, kIn}, true);
      spec.weight = Weight::trained(parameters_, w, w);
      if (!c.bias) return;
      const auto b = parameters_.add("bias", {spec.out}, false);
      spec.bias = Weight::trained(parameters_, b, b);
      return;
    }
    spec.weight = Weight::frozen(store_, store_.add({{"w", {spec.out, kIn}, false}}));
    store_.put("w", at::randn({spec.out, kIn}).to(at::kDouble));  // what float32 can hold
    if (!c.bias) return;
    spec.bias = Weight::frozen(store_, store_.add({{"bias", {spec.out}, false}}));
    store_.put("bias", at::randn({spec.out}).to(at::kDouble));
  }

  Batch batch() const {
    Batch batch;
    batch.row_bounds = {0, 6, 13};  // then a tail
    batch.row_keys = {4, 5};
    batch.step = 2;
    batch.training = true;
    return batch;
  }

  at::Tensor parameter(const std::string& name) const {
    return parameters_.value(*parameters_.find(name)).clone().set_requires_grad(true);
  }

  // y = x W^T + bias + sum of scale * dropout(x) A^T B^T + residual, with masks taken from dropout of ones; DoRA as in
  // PEFT: y gains (m / n - 1) * dropout(x) W^T + m / n * that of the adapter, n = ||W + scale B A|| by rows, constant.
  at::Tensor formula(const at::Tensor& x, const at::Tensor& residual, std::map<std::string, at::Tensor>& leaves) {
    const Case& c = GetParam();
    const auto weight = [&](const std::string& name) {
      if (!c.full) return store_.dequantized(name).to(at::kDouble);
      return leaves[name] = parameter(name);
    };
    at::Tensor y = at::matmul(x, weight("w").t());
    if (c.bias) y = y + weight("bias");
    for (std::size_t i = 0; i < segments_.size(); ++i) {
      const LoraSegment& s = segments_[i];
      at::Tensor mask = at::ones({kTokens, kIn}, at::kDouble);
      if (s.dropout > 0.0) apply_dropout(mask, mask, batch(), s.key, s.dropout);
      const at::Tensor a = leaves[fmt::format("a{}", i)] = parameter(fmt::format("a{}", i));
      const at::Tensor b = leaves[fmt::format("b{}", i)] = parameter(fmt::format("b{}", i));
      at::Tensor delta = s.scale * at::matmul(at::matmul(x * mask, a.t()), b.t());
      if (c.dora) {
        const at::Tensor m = leaves[fmt::format("m{}", i)] = parameter(fmt::format("m{}", i));
        const at::Tensor w = weight("w").narrow(0, s.begin, s.out);
        const at::Tensor gain = m / (w + s.scale * at::matmul(b, a)).norm(2, {1}).detach();
        delta = (gain - 1.0) * at::matmul(x * mask, w.t()) + gain * delta;
      }
      y = y + at::constant_pad_nd(delta, {s.begin, y.size(1) - s.begin - s.out});
    }
    return c.residual ? y + residual : y;
  }

  WeightStore store_;
  ParameterSet parameters_;
  std::vector<LoraSegment> segments_;
  std::unique_ptr<Projection> projection_;
};

TEST_P(ProjectionGradients, EqualAutograd) {
  const Case& c = GetParam();
  const at::Tensor x = at::randn({kTokens, kIn}, at::kDouble).set_requires_grad(true);
  const at::Tensor residual = at::randn({kTokens, 12}, at::kDouble).set_requires_grad(true);
  const at::Tensor d_out = at::randn({kTokens, 12}, at::kDouble);
  std::map<std::string, at::Tensor> leaves;
  const at::Tensor expected = formula(x, residual, leaves);
  std::vector<at::Tensor> inputs{x};
  for (const auto& [name, leaf] : leaves) inputs.push_back(leaf);
  if (c.residual) inputs.push_back(residual);
  const auto gradients = torch::autograd::grad({(expected * d_out).sum()}, inputs);

  OperationViews views;
  views.in = {x.detach()};
  if (c.residual) views.in.push_back(residual.detach());
  views.out = at::empty({kTokens, 12}, at::kDouble);
  for (const BufferSpec& spec : projection_->plan({kTokens, 1}).buffers) {
    views.buffers.push_back(at::full(spec.shape, std::nan(""), spec.dtype));
  }
  projection_->forward(batch(), views);
  EXPECT_LT((views.out - expected).abs().max().item<double>(), 1e-12);

  const at::Tensor before = at::randn({kTokens, kIn}, at::kDouble);
  views.d_out = d_out;
  views.d_in = {before.clone()};
  views.accumulate = {c.accumulate};
  if (c.residual) {
    views.d_in.push_back(d_out);  // passed through
    views.accumulate.push_back(false);
  }
  projection_->backward(batch(), views);
  const at::Tensor d_x = c.accumulate ? before + gradients[0] : gradients[0];
  EXPECT_LT((views.d_in[0] - d_x).abs().max().item<double>(), 1e-11);
  std::size_t i = 1;
  for (const auto& [name, leaf] : leaves) {
    const at::Tensor ours = parameters_.grad(*parameters_.find(name));
    EXPECT_LT((ours - gradients[i]).abs().max().item<double>(), 1e-11) << name;
    EXPECT_GT(gradients[i].abs().max().item<double>(), 0.0) << name;
    ++i;
  }
}

LoraSegment segment(std::int64_t begin, std::int64_t out, std::int64_t rank, double dropout, std::uint32_t linear) {
  LoraSegment s;
  s.begin = begin;
  s.out = out;
  s.rank = rank;
  s.scale = 1.0 + 0.5 * linear;
  s.dropout = dropout;
  s.key = {11, linear};
  return s;
}

INSTANTIATE_TEST_SUITE_P(
    All, ProjectionGradients,
    testing::Values(
        Case{"one", {segment(0, 12, 3, 0.0, 0)}}, Case{"one_with_dropout", {segment(0, 12, 3, 0.4, 0)}, false, true},
        Case{"a_gap", {segment(0, 5, 2, 0.0, 0), segment(8, 4, 3, 0.0, 2)}, false, true, false, true},
        Case{"dropout_on_all", {segment(0, 5, 2, 0.3, 0), segment(5, 7, 4, 0.3, 1)}, false, false, true},
        Case{"dropout_on_one", {segment(0, 5, 2, 0.3, 0), segment(5, 7, 4, 0.0, 1)}, false, true, true, true},
        Case{"dora", {segment(0, 12, 3, 0.0, 0)}, false, true, true, true, true},
        Case{"dora_with_a_gap", {segment(0, 5, 2, 0.0, 0), segment(8, 4, 3, 0.0, 2)}, false, true, false, false, true},
        Case{"dora_with_dropout", {segment(0, 5, 2, 0.3, 0), segment(7, 5, 4, 0.3, 1)}, false, true, true, true, true},
        Case{"full", {}, true, true, true}, Case{"full_no_bias", {}, true, false, false, true}),
    [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace qlora
