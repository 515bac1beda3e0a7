#include "qlora/nn/gated_activation.h"

#include <ATen/ops/gelu.h>
#include <ATen/ops/gelu_backward.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>

#include "qlora/nn/kernels.h"

namespace qlora {
namespace {

void activate(Activation activation, const at::Tensor& gate, at::Tensor& out) {
  if (activation == Activation::kSilu) {
    at::silu_out(out, gate);
  } else {
    at::gelu_out(out, gate, "tanh");
  }
}

// d_gate (+)= d * f'(gate)
void activate_backward(Activation activation, const at::Tensor& d, const at::Tensor& gate, at::Tensor& d_gate,
                       bool accumulate) {
  const bool silu = activation == Activation::kSilu;
  if (accumulate) {
    d_gate.add_(silu ? at::silu_backward(d, gate) : at::gelu_backward(d, gate, "tanh"));
  } else if (silu) {
    at::silu_backward_out(d_gate, d, gate);
  } else {
    at::gelu_backward_out(d_gate, d, gate, "tanh");
  }
}

}  // namespace

bool GatedActivation::has_kernel(at::Device device) const {
  return activation_ == Activation::kSilu && gpu::serves(device, dtype_);
}

OperationPlan GatedActivation::plan(const BatchShape& shape) const {
  const Shape rows{shape.tokens * rows_per_token_, columns_};
  const Shape scratch{has_kernel(shape.device) ? 0 : rows[0], columns_};
  return {rows,
          dtype_,
          {{"d_up", scratch, dtype_, Life::kBackwardScratch}, {"d_active", scratch, dtype_, Life::kBackwardScratch}}};
}

OperationTraits GatedActivation::traits() const {
  OperationTraits traits;
  traits.backward_reads_input = {true};
  traits.d_in_may_overwrite_input = true;
  traits.cheap = true;
  return traits;
}

void GatedActivation::forward(const Batch&, const OperationViews& v) {
  if (has_kernel(v.out.device())) return gpu::swiglu(v.in[0], v.out);
  at::Tensor out = v.out;
  activate(activation_, v.in[0].narrow(1, 0, columns_), out);
  out.mul_(v.in[0].narrow(1, columns_, columns_));
}

// d_up = d * f(gate), d_gate = d * up * f'(gate). The gradient may lie on gate and up themselves, so both are read
// before either is written.
void GatedActivation::backward(const Batch&, const OperationViews& v) {
  if (has_kernel(v.d_out.device())) return gpu::swiglu_backward(v.in[0], v.d_out, v.d_in[0], v.accumulate[0]);
  const at::Tensor gate = v.in[0].narrow(1, 0, columns_);
  const at::Tensor up = v.in[0].narrow(1, columns_, columns_);
  at::Tensor d_up = v.buffers[0];
  at::Tensor d_active = v.buffers[1];
  activate(activation_, gate, d_up);
  d_up.mul_(v.d_out);
  at::mul_out(d_active, v.d_out, up);
  at::Tensor d_gate = v.d_in[0].narrow(1, 0, columns_);
  activate_backward(activation_, d_active, gate, d_gate, v.accumulate[0]);
  at::Tensor d_up_in = v.d_in[0].narrow(1, columns_, columns_);
  if (v.accumulate[0]) {
    d_up_in.add_(d_up);
  } else {
    d_up_in.copy_(d_up);
  }
}

}  // namespace qlora
