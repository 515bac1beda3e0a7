#include "qlora/nn/head_norm.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/rsqrt.h>

#include "qlora/nn/kernels.h"
#include "qlora/nn/rms_norm.h"

namespace qlora {

OperationPlan HeadNorm::plan(const BatchShape& shape) const {
  const Dtype wide = accumulation_dtype(dtype_);
  const std::int64_t columns = (spec_.heads + 2 * spec_.kv_heads) * spec_.head_dim;
  return {{shape.tokens, columns}, dtype_, {{"inverse", {shape.tokens, normed_heads(), 1}, wide, Life::kSaved}}};
}

OperationTraits HeadNorm::traits() const {
  OperationTraits traits;
  traits.backward_reads_input = {true};
  traits.d_in_may_overwrite_input = true;
  traits.cheap = true;
  return traits;
}

gpu::HeadNorms HeadNorm::norms() const {
  return {spec_.heads,   spec_.kv_heads, spec_.head_dim, spec_.query_weight.get(), spec_.key_weight.get(),
          spec_.epsilon, spec_.offset};
}

at::Tensor HeadNorm::heads_of(const at::Tensor& x, const Part& part) const {
  return x.narrow(1, part.first_head * spec_.head_dim, part.heads * spec_.head_dim)
      .view({x.size(0), part.heads, spec_.head_dim});
}

at::Tensor HeadNorm::values_of(const at::Tensor& x) const {
  return x.narrow(1, normed_heads() * spec_.head_dim, spec_.kv_heads * spec_.head_dim);
}

at::Tensor HeadNorm::gain(const Weight& weight) const {
  return weight.get().to(accumulation_dtype(dtype_)) + spec_.offset;
}

void HeadNorm::forward(const Batch&, const OperationViews& v) {
  if (gpu::serves(v.out)) return gpu::head_norm(v.in[0], norms(), v.out, v.buffers[0]);
  for (const Part& part :
       {Part{0, spec_.heads, spec_.query_weight}, Part{spec_.heads, spec_.kv_heads, spec_.key_weight}}) {
    const at::Tensor x = heads_of(v.in[0], part).to(accumulation_dtype(dtype_));
    at::Tensor inverse = v.buffers[0].narrow(1, part.first_head, part.heads);
    inverse.copy_(at::rsqrt(x.square().mean(-1, /*keepdim=*/true).add_(spec_.epsilon)));
    heads_of(v.out, part).copy_(at::mul(x, inverse).mul_(gain(part.weight)));
  }
  values_of(v.out).copy_(values_of(v.in[0]));
}

// As in RmsNorm, with n = x * inverse and g = d_y * gain: d_x = inverse * (g - n * mean(g * n)), d_weight = sum of d_y
// n.
void HeadNorm::differentiate(const OperationViews& v, const Part& part) const {
  const Dtype wide = accumulation_dtype(dtype_);
  const at::Tensor inverse = v.buffers[0].narrow(1, part.first_head, part.heads);
  const at::Tensor n = heads_of(v.in[0], part).to(wide) * inverse;
  const at::Tensor d_y = heads_of(v.d_out, part).to(wide);
  if (part.weight.trainable()) part.weight.grad().add_((d_y * n).sum(at::IntArrayRef{0, 1}));
  if (!v.d_in[0].defined()) return;
  const at::Tensor g = d_y * gain(part.weight);
  const at::Tensor d_x = (g - n * (g * n).mean(-1, /*keepdim=*/true)).mul_(inverse);
  if (v.accumulate[0]) {
    heads_of(v.d_in[0], part).add_(d_x);
  } else {
    heads_of(v.d_in[0], part).copy_(d_x);
  }
}

// The gradient may lie on the input itself: each part is read before it is written.
void HeadNorm::backward(const Batch&, const OperationViews& v) {
  if (gpu::serves(v.d_out) && !trainable()) {
    if (v.d_in[0].defined()) {
      gpu::head_norm_backward(v.in[0], norms(), v.buffers[0], v.d_out, v.d_in[0], v.accumulate[0]);
    }
    return;
  }
  differentiate(v, {0, spec_.heads, spec_.query_weight});
  differentiate(v, {spec_.heads, spec_.kv_heads, spec_.key_weight});
  if (!v.d_in[0].defined()) return;
  if (v.accumulate[0]) {
    values_of(v.d_in[0]).add_(values_of(v.d_out));
  } else {
    values_of(v.d_in[0]).copy_(values_of(v.d_out));
  }
}

}  // namespace qlora
