#include "qlora/nn/rms_norm.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/sum.h>

#include "qlora/nn/kernels.h"

namespace qlora {

Dtype accumulation_dtype(Dtype dtype) {
  return dtype == at::kDouble ? at::kDouble : at::kFloat;
}

RmsNorm::RmsNorm(Weight weight, std::int64_t columns, double epsilon, Dtype dtype, double offset)
    : weight_(weight), columns_(columns), epsilon_(epsilon), dtype_(dtype), offset_(offset) {}

bool RmsNorm::uses_kernels(at::Device device) const {
  return gpu::serves(device, dtype_);
}

OperationPlan RmsNorm::plan(const BatchShape& shape) const {
  const Dtype wide = accumulation_dtype(dtype_);
  const bool kernels = uses_kernels(shape.device);
  const Shape rows{shape.tokens, columns_};
  const Shape forward = kernels ? Shape{0, columns_} : rows;
  const Shape backward = kernels && !weight_.trainable() ? Shape{0, columns_} : rows;
  return {rows,
          dtype_,
          {{"inverse", {shape.tokens, 1}, wide, Life::kSaved},
           {"wide", forward, wide, Life::kForwardScratch},
           {"a", backward, wide, Life::kBackwardScratch},
           {"b", backward, wide, Life::kBackwardScratch},
           {"c", backward, wide, Life::kBackwardScratch}}};
}

OperationTraits RmsNorm::traits() const {
  OperationTraits traits;
  traits.backward_reads_input = {true};
  traits.cheap = true;
  return traits;
}

void RmsNorm::forward(const Batch&, const OperationViews& v) {
  normalize(v.in[0], v.out, v.buffers[0], v.buffers[1]);
}

void RmsNorm::backward(const Batch&, const OperationViews& v) {
  differentiate(v.in[0], v.d_out, v.buffers[0], v.d_in[0], v.accumulate[0], v.buffers[2], v.buffers[3], v.buffers[4]);
}

void RmsNorm::normalize(const at::Tensor& x, const at::Tensor& y, const at::Tensor& inverse,
                        const at::Tensor& scratch) const {
  if (uses_kernels(x.device())) return gpu::rms_norm(x, weight_.get(), y, inverse, epsilon_, offset_);
  at::Tensor inv = inverse;
  at::Tensor wide = scratch;
  wide.copy_(x);
  at::linalg_vector_norm_out(inv, wide, 2, at::IntArrayRef{-1}, /*keepdim=*/true);
  inv.square_().div_(static_cast<double>(columns_)).add_(epsilon_).rsqrt_();
  wide.mul_(inv);
  if (offset_ != 0.0) {
    y.copy_(wide.mul_(weight_.get().to(wide.scalar_type()) + offset_));
    return;
  }
  y.copy_(wide);
  y.mul_(weight_.get());
}

// With n = x * inverse and g = d_y * weight: d_x = inverse * (g - n * mean(g * n)), d_weight = sum over rows of d_y *
// n.
void RmsNorm::differentiate(const at::Tensor& x, const at::Tensor& d_y, const at::Tensor& inverse,
                            const at::Tensor& d_x, bool accumulate, const at::Tensor& scratch_a,
                            const at::Tensor& scratch_b, const at::Tensor& scratch_c) const {
  if (uses_kernels(x.device()) && !weight_.trainable()) {
    if (d_x.defined()) gpu::rms_norm_backward(x, weight_.get(), inverse, d_y, d_x, offset_, accumulate);
    return;
  }
  at::Tensor g = scratch_a;
  at::Tensor n = scratch_b;
  at::Tensor product = scratch_c;
  n.copy_(x);
  n.mul_(inverse);
  g.copy_(d_y);
  if (weight_.trainable()) {
    at::mul_out(product, g, n);
    weight_.grad().add_(product.sum(0));
  }
  if (!d_x.defined()) return;
  if (offset_ != 0.0) {
    g.mul_(weight_.get().to(g.scalar_type()) + offset_);
  } else {
    g.mul_(weight_.get());
  }
  at::mul_out(product, g, n);
  const at::Tensor mean = product.sum(-1, /*keepdim=*/true).div_(static_cast<double>(columns_));
  g.sub_(n.mul_(mean)).mul_(inverse);
  if (accumulate) {
    d_x.add_(g);
  } else {
    d_x.copy_(g);
  }
}

}  // namespace qlora
