#include "qlora/nn/geglu.h"

#include <ATen/ops/gelu.h>
#include <ATen/ops/gelu_backward.h>
#include <ATen/ops/mul.h>

namespace qlora {

OperationPlan GeGlu::plan(const BatchShape& shape) const {
  const Shape rows{shape.tokens, columns_};
  return {
      rows, dtype_, {{"d_up", rows, dtype_, Life::kBackwardScratch}, {"d_gelu", rows, dtype_, Life::kBackwardScratch}}};
}

OperationTraits GeGlu::traits() const {
  OperationTraits traits;
  traits.backward_reads_input = {true};
  traits.d_in_may_overwrite_input = true;
  traits.cheap = true;
  return traits;
}

void GeGlu::forward(const Batch&, const OperationViews& v) {
  at::Tensor out = v.out;
  at::gelu_out(out, v.in[0].narrow(1, 0, columns_), "tanh");
  out.mul_(v.in[0].narrow(1, columns_, columns_));
}

// d_up = d * gelu(gate), d_gate = d * up * gelu'(gate). The gradient may lie on gate and up themselves, so both are
// read before either is written.
void GeGlu::backward(const Batch&, const OperationViews& v) {
  const at::Tensor gate = v.in[0].narrow(1, 0, columns_);
  const at::Tensor up = v.in[0].narrow(1, columns_, columns_);
  at::Tensor d_up = v.buffers[0];
  at::Tensor d_gelu = v.buffers[1];
  at::gelu_out(d_up, gate, "tanh");
  d_up.mul_(v.d_out);
  at::mul_out(d_gelu, v.d_out, up);
  at::Tensor d_gate = v.d_in[0].narrow(1, 0, columns_);
  if (v.accumulate[0]) {
    d_gate.add_(at::gelu_backward(d_gelu, gate, "tanh"));
    v.d_in[0].narrow(1, columns_, columns_).add_(d_up);
  } else {
    at::gelu_backward_out(d_gate, d_gelu, gate, "tanh");
    v.d_in[0].narrow(1, columns_, columns_).copy_(d_up);
  }
}

}  // namespace qlora
