#include "qlora/nn/projection.h"

#include <ATen/ops/sum.h>

#include "qlora/nn/gemm.h"

namespace qlora {
namespace {

enum Buffer { kLowRank, kForwardDropped, kDLowRank, kBackwardDropped };

// out += alpha * a b, where out may be wider than a and b.
void add_product(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, double alpha) {
  gemm(out, a, b, {alpha, out, {}});
}

}  // namespace

Projection::Projection(Spec spec, ParameterSet& parameters, Dtype dtype)
    : spec_(std::move(spec)), parameters_(parameters), dtype_(dtype) {
  for (const LoraSegment& adapter : spec_.adapters) ranks_ += adapter.rank;
}

bool Projection::trainable() const {
  return !spec_.adapters.empty() || spec_.weight.trainable() || (spec_.bias && spec_.bias.trainable());
}

bool Projection::has_dropout() const {
  for (const LoraSegment& adapter : spec_.adapters) {
    if (adapter.dropout > 0.0) return true;
  }
  return false;
}

OperationPlan Projection::plan(const BatchShape& shape) const {
  OperationPlan plan{{shape.tokens, spec_.out}, dtype_, {}};
  const std::int64_t dropped = has_dropout() ? spec_.in : 0;
  plan.buffers = {{"low_rank", {shape.tokens, ranks_}, dtype_, Life::kSaved},
                  {"dropped", {shape.tokens, dropped}, dtype_, Life::kForwardScratch},
                  {"d_low_rank", {shape.tokens, ranks_}, dtype_, Life::kBackwardScratch},
                  {"dropped", {shape.tokens, dropped}, dtype_, Life::kBackwardScratch}};
  return plan;
}

OperationTraits Projection::traits() const {
  OperationTraits traits;
  traits.backward_reads_input = {!spec_.adapters.empty() || spec_.weight.trainable()};
  traits.d_in_may_overwrite_input = true;
  if (spec_.residual) {
    traits.backward_reads_input.push_back(false);
    traits.pass_through = 1;
  }
  return traits;
}

at::Tensor Projection::stacked_a() const {
  return parameters_.stacked_compute(spec_.adapters.front().a, spec_.adapters.back().a);
}

void Projection::forward(const Batch& batch, const OperationViews& v) {
  GemmExtras extras;
  if (spec_.residual) extras.addend = v.in[1];
  if (spec_.bias) extras.bias = spec_.bias.get();
  gemm(v.out, v.in[0], spec_.weight.get().t(), extras);
  if (!spec_.adapters.empty()) add_adapters(batch, v);
}

void Projection::add_adapters(const Batch& batch, const OperationViews& v) {
  const at::Tensor& low_rank = v.buffers[kLowRank];
  const bool dropping = batch.training && has_dropout();
  if (!dropping) gemm(low_rank, v.in[0], stacked_a().t());
  std::int64_t column = 0;
  for (const LoraSegment& adapter : spec_.adapters) {
    const at::Tensor mine = low_rank.narrow(1, column, adapter.rank);
    if (dropping) {
      const bool mine_drops = adapter.dropout > 0.0;
      if (mine_drops) apply_dropout(v.in[0], v.buffers[kForwardDropped], batch, adapter.key, adapter.dropout);
      gemm(mine, mine_drops ? v.buffers[kForwardDropped] : v.in[0], parameters_.compute(adapter.a).t());
    }
    add_product(v.out.narrow(1, adapter.begin, adapter.out), mine, parameters_.compute(adapter.b).t(), adapter.scale);
    column += adapter.rank;
  }
}

void Projection::backward(const Batch& batch, const OperationViews& v) {
  const bool wants_input = v.d_in[0].defined();
  if (!spec_.adapters.empty()) add_adapter_gradients(batch, v);  // reads the input, which d_in[0] may overwrite
  add_weight_gradients(v);
  if (wants_input) {
    const at::Tensor& d_x = v.d_in[0];
    gemm(d_x, v.d_out, spec_.weight.get(), {1.0, v.accumulate[0] ? d_x : at::Tensor(), {}});
    if (!spec_.adapters.empty()) add_adapters_backward(batch, v);
  }
  if (spec_.residual && v.d_in[1].defined() && v.accumulate[1]) v.d_in[1].add_(v.d_out);
}

// d_x += dropout(d_u A), with each adapter's mask.
void Projection::add_adapters_backward(const Batch& batch, const OperationViews& v) {
  if (!has_dropout()) return add_product(v.d_in[0], v.buffers[kDLowRank], stacked_a(), 1.0);
  std::int64_t column = 0;
  for (const LoraSegment& adapter : spec_.adapters) {
    const at::Tensor d_low_rank = v.buffers[kDLowRank].narrow(1, column, adapter.rank);
    const at::Tensor a = parameters_.compute(adapter.a);
    if (adapter.dropout > 0.0) {
      const at::Tensor& dropped = v.buffers[kBackwardDropped];
      gemm(dropped, d_low_rank, a);
      apply_dropout(dropped, v.d_in[0], batch, adapter.key, adapter.dropout, /*accumulate=*/true);
    } else {
      add_product(v.d_in[0], d_low_rank, a, 1.0);
    }
    column += adapter.rank;
  }
}

// With u = dropout(x) A^T: d_u = scale * d_y B, d_B += scale * d_y^T u, d_A += d_u^T dropout(x).
void Projection::add_adapter_gradients(const Batch& batch, const OperationViews& v) {
  std::int64_t column = 0;
  for (const LoraSegment& adapter : spec_.adapters) {
    const at::Tensor d_out = v.d_out.narrow(1, adapter.begin, adapter.out);
    const at::Tensor d_low_rank = v.buffers[kDLowRank].narrow(1, column, adapter.rank);
    gemm(d_low_rank, d_out, parameters_.compute(adapter.b), {adapter.scale, {}, {}});
    add_product(parameters_.grad(adapter.b), d_out.t(), v.buffers[kLowRank].narrow(1, column, adapter.rank),
                adapter.scale);
    if (adapter.dropout > 0.0) {
      apply_dropout(v.in[0], v.buffers[kBackwardDropped], batch, adapter.key, adapter.dropout);
      add_product(parameters_.grad(adapter.a), d_low_rank.t(), v.buffers[kBackwardDropped], 1.0);
    } else if (has_dropout()) {
      add_product(parameters_.grad(adapter.a), d_low_rank.t(), v.in[0], 1.0);
    }
    column += adapter.rank;
  }
  if (!has_dropout()) {
    add_product(parameters_.stacked_grad(spec_.adapters.front().a, spec_.adapters.back().a), v.buffers[kDLowRank].t(),
                v.in[0], 1.0);
  }
}

void Projection::add_weight_gradients(const OperationViews& v) {
  if (spec_.weight.trainable()) add_product(spec_.weight.grad(), v.d_out.t(), v.in[0], 1.0);
  if (spec_.bias && spec_.bias.trainable()) spec_.bias.grad().add_(v.d_out.sum(0));
}

}  // namespace qlora
