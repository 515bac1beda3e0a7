#include "qlora/nn/swiglu.h"

#include <ATen/ops/mul.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>

#include "qlora/nn/kernels.h"

namespace qlora {

OperationPlan SwiGlu::plan(const BatchShape& shape) const {
  const Shape rows{shape.tokens, columns_};
  const Shape scratch{gpu::serves(shape.device, dtype_) ? 0 : shape.tokens, columns_};
  return {rows,
          dtype_,
          {{"d_up", scratch, dtype_, Life::kBackwardScratch}, {"d_silu", scratch, dtype_, Life::kBackwardScratch}}};
}

OperationTraits SwiGlu::traits() const {
  OperationTraits traits;
  traits.backward_reads_input = {true};
  traits.d_in_may_overwrite_input = true;
  traits.cheap = true;
  return traits;
}

void SwiGlu::forward(const Batch&, const OperationViews& v) {
  if (gpu::serves(v.out)) return gpu::swiglu(v.in[0], v.out);
  at::Tensor out = v.out;
  at::silu_out(out, v.in[0].narrow(1, 0, columns_));
  out.mul_(v.in[0].narrow(1, columns_, columns_));
}

// d_up = d * silu(gate), d_gate = d * up * silu'(gate). The gradient may lie on gate and up themselves, so both are
// read before either is written.
void SwiGlu::backward(const Batch&, const OperationViews& v) {
  if (gpu::serves(v.d_out)) return gpu::swiglu_backward(v.in[0], v.d_out, v.d_in[0], v.accumulate[0]);
  const at::Tensor gate = v.in[0].narrow(1, 0, columns_);
  const at::Tensor up = v.in[0].narrow(1, columns_, columns_);
  at::Tensor d_up = v.buffers[0];
  at::Tensor d_silu = v.buffers[1];
  at::silu_out(d_up, gate);
  d_up.mul_(v.d_out);
  at::mul_out(d_silu, v.d_out, up);
  at::Tensor d_gate = v.d_in[0].narrow(1, 0, columns_);
  if (v.accumulate[0]) {
    d_gate.add_(at::silu_backward(d_silu, gate));
    v.d_in[0].narrow(1, columns_, columns_).add_(d_up);
  } else {
    at::silu_backward_out(d_gate, d_silu, gate);
    v.d_in[0].narrow(1, columns_, columns_).copy_(d_up);
  }
}

}  // namespace qlora
