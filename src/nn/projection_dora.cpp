// DoRA (Liu et al. 2024) in a projection: with n the norms of the rows of W + s B A, which count as constants, and
// x' = dropout(x),
//   z = x' W^T + s u B^T,  u = x' A^T,  y = x W^T - x' W^T + (m / n) z + bias + residual
//   d_m = sum over tokens of d_y z / n,  d_z = (m / n) d_y,  d_x = d_y W + dropout((d_z - d_y) W + d_z s B A)
// Columns without an adapter have m / n = 1 and no z of their own.
#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/sum.h>

#include "qlora/nn/gemm.h"
#include "qlora/nn/projection.h"

namespace qlora {
namespace {

// How many elements of W + s B A exist at a time.
constexpr std::int64_t kNormElements = std::int64_t{1} << 22;

}  // namespace

std::int64_t Projection::norm_rows() const {
  return std::clamp<std::int64_t>(kNormElements / std::max<std::int64_t>(spec_.in, 1), 1, spec_.out);
}

void Projection::compute_norms(const OperationViews& v) {
  at::Tensor norms = v.buffers[kNorms];
  norms.fill_(1.0);
  const at::Tensor weight = spec_.weight.get();
  for (const LoraSegment& s : spec_.adapters) {
    const at::Tensor a = parameters_.compute(s.a), b = parameters_.compute(s.b);
    for (std::int64_t begin = 0; begin < s.out; begin += norm_rows()) {
      const std::int64_t count = std::min(norm_rows(), s.out - begin);
      const at::Tensor rows = v.buffers[kAdaptedRows].narrow(0, 0, count);
      rows.copy_(weight.narrow(0, s.begin + begin, count));
      gemm(rows, b.narrow(0, begin, count), a, {s.scale, rows, {}});
      norms.narrow(0, s.begin + begin, count).copy_(at::linalg_vector_norm(rows, 2, at::IntArrayRef{1}));
    }
  }
}

void Projection::forward_with_magnitudes(const Batch& batch, const OperationViews& v) {
  const bool drops = batch.training && has_dropout();
  at::Tensor y = v.out;
  compute_norms(v);
  compute_low_rank(batch, v);
  gemm(y, v.in[0], spec_.weight.get().t());
  std::int64_t column = 0;
  for (const LoraSegment& s : spec_.adapters) {
    const at::Tensor gain = (parameters_.value(s.magnitude) / v.buffers[kNorms].narrow(0, s.begin, s.out)).to(dtype_);
    at::Tensor part = y.narrow(1, s.begin, s.out);
    if (drops) {
      at::Tensor product = v.buffers[kForwardProduct].narrow(1, s.begin, s.out);
      apply_dropout(v.in[0], v.buffers[kForwardDropped], batch, s.key, s.dropout);
      gemm(product, v.buffers[kForwardDropped], spec_.weight.get().narrow(0, s.begin, s.out).t());
      part.sub_(product);
      gemm(product, v.buffers[kLowRank].narrow(1, column, s.rank), parameters_.compute(s.b).t(),
           {s.scale, product, {}});
      part.add_(product.mul_(gain));
    } else {
      gemm(part, v.buffers[kLowRank].narrow(1, column, s.rank), parameters_.compute(s.b).t(), {s.scale, part, {}});
      part.mul_(gain);
    }
    column += s.rank;
  }
  if (spec_.bias) y.add_(spec_.bias.get());
  if (spec_.residual) y.add_(v.in[1]);
}

// d_m, and d_z in kScaledDOut.
void Projection::differentiate_magnitudes(const Batch& batch, const OperationViews& v) {
  v.buffers[kScaledDOut].copy_(v.d_out);
  std::int64_t column = 0;
  for (const LoraSegment& s : spec_.adapters) {
    const bool drops = batch.training && s.dropout > 0.0;
    const at::Tensor norms = v.buffers[kNorms].narrow(0, s.begin, s.out);
    const at::Tensor d_out = v.d_out.narrow(1, s.begin, s.out);
    at::Tensor z = v.buffers[kBackwardProduct].narrow(1, s.begin, s.out);
    if (drops) apply_dropout(v.in[0], v.buffers[kBackwardDropped], batch, s.key, s.dropout);
    gemm(z, drops ? v.buffers[kBackwardDropped] : v.in[0], spec_.weight.get().narrow(0, s.begin, s.out).t());
    gemm(z, v.buffers[kLowRank].narrow(1, column, s.rank), parameters_.compute(s.b).t(), {s.scale, z, {}});
    parameters_.grad(s.magnitude).add_(at::sum(z.mul_(d_out), {0}, /*keepdim=*/false, norms.scalar_type()) / norms);
    at::Tensor scaled = v.buffers[kScaledDOut].narrow(1, s.begin, s.out);
    scaled.mul_((parameters_.value(s.magnitude) / norms).to(dtype_));
    column += s.rank;
  }
}

void Projection::backward_with_magnitudes(const Batch& batch, const OperationViews& v) {
  const at::Tensor& d_x = v.d_in[0];
  const at::Tensor& scaled = v.buffers[kScaledDOut];
  differentiate_magnitudes(batch, v);
  add_b_gradients(v, scaled);
  add_a_gradients(batch, v);  // d_x may overwrite x: all that reads x comes first
  if (spec_.bias && spec_.bias.trainable()) spec_.bias.grad().add_(v.d_out.sum(0));
  if (d_x.defined()) {
    const at::Tensor before = v.accumulate[0] ? d_x : at::Tensor();
    gemm(d_x, has_dropout() ? v.d_out : scaled, spec_.weight.get(), {1.0, before, {}});
    if (has_dropout()) {
      add_dropped_gradients(batch, v);
    } else {
      gemm(d_x, v.buffers[kDLowRank], stacked_a(), {1.0, d_x, {}});
    }
  }
  if (spec_.residual && v.d_in[1].defined() && v.accumulate[1]) v.d_in[1].add_(v.d_out);
}

// d_x += dropout((d_z - d_y) W + d_u A), with each adapter's mask.
void Projection::add_dropped_gradients(const Batch& batch, const OperationViews& v) {
  std::int64_t column = 0;
  for (const LoraSegment& s : spec_.adapters) {
    const at::Tensor& dropped = v.buffers[kBackwardDropped];
    at::Tensor difference = v.buffers[kBackwardProduct].narrow(1, s.begin, s.out);
    difference.copy_(v.buffers[kScaledDOut].narrow(1, s.begin, s.out)).sub_(v.d_out.narrow(1, s.begin, s.out));
    gemm(dropped, difference, spec_.weight.get().narrow(0, s.begin, s.out));
    gemm(dropped, v.buffers[kDLowRank].narrow(1, column, s.rank), parameters_.compute(s.a), {1.0, dropped, {}});
    apply_dropout(dropped, v.d_in[0], batch, s.key, s.dropout, /*accumulate=*/true);
    column += s.rank;
  }
}

}  // namespace qlora
