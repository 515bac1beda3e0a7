#include "qlora/nn/projection.h"

#include <ATen/ops/sum.h>

#include "qlora/nn/fp8.h"
#include "qlora/nn/gemm.h"
#include "qlora/nn/rms_norm.h"

namespace qlora {
namespace {

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

bool Projection::has_magnitudes() const {
  return !spec_.adapters.empty() && spec_.adapters.front().magnitude >= 0;
}

bool Projection::in_fp8() const {
  return !has_magnitudes() && spec_.weight.in_fp8();
}

bool Projection::fuses_adapters(at::Device device) const {
  std::vector<std::int64_t> ranks;
  for (const LoraSegment& adapter : spec_.adapters) {
    ranks.push_back(adapter.rank);
    if (parameters_.infos()[static_cast<std::size_t>(adapter.a)].offset % 8 != 0) return false;  // read in packs
  }
  return !ranks.empty() && !has_magnitudes() && gpu::serves_lora(device, dtype_, spec_.in, ranks);
}

bool Projection::writes_whole_output(at::Device device) const {
  std::int64_t end = 0;
  for (const LoraSegment& adapter : spec_.adapters) {
    const bool fits = adapter.begin == end && adapter.out % 8 == 0 && adapter.rank <= 64;
    if (!fits || parameters_.infos()[static_cast<std::size_t>(adapter.b)].offset % 8 != 0) return false;
    end += adapter.out;
  }
  return end == spec_.out && fuses_adapters(device);
}

std::vector<gpu::LoraDown> Projection::down_adapters() const {
  std::vector<gpu::LoraDown> adapters;
  std::int64_t column = 0;
  for (const LoraSegment& s : spec_.adapters) {
    adapters.push_back({parameters_.compute(s.a), parameters_.grad(s.a), column, s.dropout, s.key});
    column += s.rank;
  }
  return adapters;
}

std::vector<gpu::LoraUp> Projection::up_adapters() const {
  std::vector<gpu::LoraUp> adapters;
  std::int64_t column = 0;
  for (const LoraSegment& s : spec_.adapters) {
    adapters.push_back({parameters_.compute(s.b), column, s.begin, s.scale});
    column += s.rank;
  }
  return adapters;
}

OperationPlan Projection::plan(const BatchShape& shape) const {
  OperationPlan plan{{shape.tokens, spec_.out}, dtype_, {}};
  const bool fuses = has_dropout() && fuses_adapters(shape.device);
  const std::int64_t dropped = has_dropout() && !fuses ? spec_.in : 0;
  const std::int64_t workspace = fuses ? gpu::lora_workspace(shape.tokens, spec_.in, ranks_) : 0;
  plan.buffers = {{"low_rank", {shape.tokens, ranks_}, dtype_, Life::kSaved},
                  {"dropped", {shape.tokens, dropped}, dtype_, Life::kForwardScratch},
                  {"d_low_rank", {shape.tokens, ranks_}, dtype_, Life::kBackwardScratch},
                  {"dropped", {shape.tokens, dropped}, dtype_, Life::kBackwardScratch},
                  {"workspace", {workspace}, at::kFloat, Life::kBackwardScratch}};
  const Dtype wide = accumulation_dtype(dtype_);
  const std::int64_t dora = has_magnitudes() ? 1 : 0;
  const std::int64_t product = has_dropout() ? dora * shape.tokens : 0;  // else forward needs none
  plan.buffers.push_back({"norms", {dora * spec_.out}, wide, Life::kSaved});
  plan.buffers.push_back({"adapted_rows", {dora * norm_rows(), spec_.in}, wide, Life::kForwardScratch});
  plan.buffers.push_back({"product", {product, spec_.out}, dtype_, Life::kForwardScratch});
  plan.buffers.push_back({"product", {dora * shape.tokens, spec_.out}, dtype_, Life::kBackwardScratch});
  plan.buffers.push_back({"scaled_d_out", {dora * shape.tokens, spec_.out}, dtype_, Life::kBackwardScratch});
  const std::int64_t rows = in_fp8() ? shape.tokens : 0;
  plan.buffers.push_back({"fp8_codes", {rows, spec_.in}, at::kFloat8_e4m3fn, Life::kForwardScratch});
  plan.buffers.push_back({"fp8_scales", {rows}, at::kFloat, Life::kForwardScratch});
  plan.buffers.push_back({"fp8_codes", {rows, spec_.out}, at::kFloat8_e4m3fn, Life::kBackwardScratch});
  plan.buffers.push_back({"fp8_scales", {rows}, at::kFloat, Life::kBackwardScratch});
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
  if (has_magnitudes()) return forward_with_magnitudes(batch, v);
  GemmExtras extras;
  if (spec_.residual) extras.addend = v.in[1];
  if (spec_.bias) extras.bias = spec_.bias.get();
  const bool adapts = !spec_.adapters.empty();
  const bool adapters_first = adapts && writes_whole_output(v.out.device());
  if (adapts) compute_low_rank(batch, v);
  if (adapters_first) {  // y is written, and read by the frozen product: not read once more
    gpu::lora_up(v.buffers[kLowRank], up_adapters(), extras.addend, v.out);
    extras.addend = v.out;
  }
  if (in_fp8()) {
    fp8_gemm(v.out, v.in[0], spec_.weight.fp8(false), Fp8Sums::kFast, extras,
             {v.buffers[kForwardCodes], v.buffers[kForwardScales]});
  } else if (!spec_.weight.multiply(v.in[0], extras.addend, extras.bias, v.out)) {
    gemm(v.out, v.in[0], spec_.weight.get().t(), extras);
  }
  if (adapts && !adapters_first) add_adapters(v);
}

// out += scale * u B^T.
void Projection::add_adapters(const OperationViews& v) {
  std::int64_t column = 0;
  for (const LoraSegment& adapter : spec_.adapters) {
    add_product(v.out.narrow(1, adapter.begin, adapter.out), v.buffers[kLowRank].narrow(1, column, adapter.rank),
                parameters_.compute(adapter.b).t(), adapter.scale);
    column += adapter.rank;
  }
}

// u = dropout(x) A^T. Without dropout one product of cuBLASLt is faster than the kernel.
void Projection::compute_low_rank(const Batch& batch, const OperationViews& v) {
  const at::Tensor& low_rank = v.buffers[kLowRank];
  if (!batch.training || !has_dropout()) return gemm(low_rank, v.in[0], stacked_a().t());
  if (fuses_adapters(low_rank.device())) return gpu::lora_down(v.in[0], down_adapters(), batch, low_rank);
  std::int64_t column = 0;
  for (const LoraSegment& adapter : spec_.adapters) {
    const bool drops = adapter.dropout > 0.0;
    if (drops) apply_dropout(v.in[0], v.buffers[kForwardDropped], batch, adapter.key, adapter.dropout);
    gemm(low_rank.narrow(1, column, adapter.rank), drops ? v.buffers[kForwardDropped] : v.in[0],
         parameters_.compute(adapter.a).t());
    column += adapter.rank;
  }
}

void Projection::backward(const Batch& batch, const OperationViews& v) {
  if (has_magnitudes()) return backward_with_magnitudes(batch, v);
  const at::Tensor& d_x = v.d_in[0];
  const bool adapts = !spec_.adapters.empty();
  const bool fuses = adapts && has_dropout() && fuses_adapters(v.d_out.device());
  add_weight_gradients(v);
  if (adapts) add_b_gradients(v, v.d_out);
  // d_x may overwrite x: all that reads x comes first.
  if (fuses) {
    gpu::lora_down_backward(v.in[0], v.buffers[kDLowRank], down_adapters(), batch, d_x, v.accumulate[0],
                            v.buffers[kWorkspace]);
  } else if (adapts) {
    add_a_gradients(batch, v);
  }
  if (d_x.defined()) {
    const GemmExtras extras{1.0, v.accumulate[0] || fuses ? d_x : at::Tensor(), {}};
    if (in_fp8()) {
      fp8_gemm(d_x, v.d_out, spec_.weight.fp8(true), Fp8Sums::kExact, extras,
               {v.buffers[kBackwardCodes], v.buffers[kBackwardScales]});
    } else {
      gemm(d_x, v.d_out, spec_.weight.get(), extras);
    }
    if (adapts && !fuses) add_adapters_backward(batch, v);
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

// d_u = scale * d_y B, d_B += scale * d_y^T u.
void Projection::add_b_gradients(const OperationViews& v, const at::Tensor& whole) {
  std::int64_t column = 0;
  for (const LoraSegment& adapter : spec_.adapters) {
    const at::Tensor d_out = whole.narrow(1, adapter.begin, adapter.out);
    gemm(v.buffers[kDLowRank].narrow(1, column, adapter.rank), d_out, parameters_.compute(adapter.b),
         {adapter.scale, {}, {}});
    add_product(parameters_.grad(adapter.b), d_out.t(), v.buffers[kLowRank].narrow(1, column, adapter.rank),
                adapter.scale);
    column += adapter.rank;
  }
}

// d_A += d_u^T dropout(x).
void Projection::add_a_gradients(const Batch& batch, const OperationViews& v) {
  if (!has_dropout()) {
    return add_product(parameters_.stacked_grad(spec_.adapters.front().a, spec_.adapters.back().a),
                       v.buffers[kDLowRank].t(), v.in[0], 1.0);
  }
  std::int64_t column = 0;
  for (const LoraSegment& adapter : spec_.adapters) {
    const bool drops = adapter.dropout > 0.0;
    const at::Tensor& dropped = v.buffers[kBackwardDropped];
    if (drops) apply_dropout(v.in[0], dropped, batch, adapter.key, adapter.dropout);
    add_product(parameters_.grad(adapter.a), v.buffers[kDLowRank].narrow(1, column, adapter.rank).t(),
                drops ? dropped : v.in[0], 1.0);
    column += adapter.rank;
  }
}

void Projection::add_weight_gradients(const OperationViews& v) {
  if (spec_.weight.trainable()) add_product(spec_.weight.grad(), v.d_out.t(), v.in[0], 1.0);
  if (spec_.bias && spec_.bias.trainable()) spec_.bias.grad().add_(v.d_out.sum(0));
}

}  // namespace qlora
