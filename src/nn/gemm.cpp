#include "qlora/nn/gemm.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>

#include "cublas_lt.h"

namespace qlora {

void gemm(const at::Tensor& result, const at::Tensor& a, const at::Tensor& b, const GemmExtras& extras) {
  if (result.is_cuda() && cublas_lt_gemm(result, a, b, extras)) return;
  at::Tensor out = result;
  if (out.scalar_type() != a.scalar_type()) {
    TORCH_CHECK(extras.addend.is_same(out) && !extras.bias.defined(), "a wider result only accumulates");
    out.add_(at::mm(a, b), extras.alpha);
  } else if (extras.addend.defined()) {
    at::addmm_out(out, extras.addend, a, b, 1.0, extras.alpha);
    if (extras.bias.defined()) out.add_(extras.bias);
  } else if (extras.bias.defined()) {
    at::addmm_out(out, extras.bias, a, b, 1.0, extras.alpha);
  } else {
    at::mm_out(out, a, b);
    if (extras.alpha != 1.0) out.mul_(extras.alpha);
  }
}

std::int64_t gemm_workspace_bytes(at::Device device) {
  return device.is_cuda() ? kCublasLtWorkspaceBytes : 0;
}

}  // namespace qlora
