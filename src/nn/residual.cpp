#include "qlora/nn/residual.h"

#include <ATen/ops/add.h>

namespace qlora {

OperationTraits Residual::traits() const {
  OperationTraits traits;
  traits.backward_reads_input = {false, false};
  traits.pass_through = 1;
  traits.cheap = true;
  return traits;
}

void Residual::forward(const Batch&, const OperationViews& v) {
  at::Tensor out = v.out;
  at::add_out(out, v.in[1], v.in[0], scale_);
}

void Residual::backward(const Batch&, const OperationViews& v) {
  if (v.d_in[0].defined()) {
    at::Tensor d_x = v.d_in[0];
    if (v.accumulate[0]) {
      d_x.add_(v.d_out, scale_);
    } else {
      d_x.copy_(v.d_out).mul_(scale_);
    }
  }
  if (v.d_in[1].defined() && v.accumulate[1]) v.d_in[1].add_(v.d_out);
}

}  // namespace qlora
