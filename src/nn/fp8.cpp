#include "qlora/nn/fp8.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

#include "qlora/nn/kernels.h"
#include "qlora/quant/e4m3.h"

#include "cublas_lt.h"

namespace qlora {
namespace {

void quantize_rows(const at::Tensor& x, const at::Tensor& factor, const Fp8Rows& rows) {
  if (gpu::serves(x)) return gpu::fp8_quantize_rows(x, factor, rows.codes, rows.scales);
  const at::Tensor wide = x.to(at::kFloat);
  // NaN does not count for the largest; it stays in the codes.
  const at::Tensor largest = wide.abs().nan_to_num(0.0).amax(1, /*keepdim=*/true).clamp_min(kSmallestScaled);
  rows.codes.copy_(wide * (kLargestE4m3 / largest));
  rows.scales.copy_((largest / kLargestE4m3 * factor).squeeze(1));
}

}  // namespace

void fp8_gemm(const at::Tensor& out, const at::Tensor& x, const Fp8Weight& weight, Fp8Sums sums,
              const GemmExtras& extras, const Fp8Rows& rows) {
  quantize_rows(x, weight.scale[0], rows);
  const bool fast = sums == Fp8Sums::kFast;
  if (gpu::serves(out) && cublas_lt_fp8_gemm(out, rows.codes, rows.scales, weight.codes, fast, extras)) return;
  at::Tensor sum = at::empty(out.sizes(), out.options().dtype(at::kFloat));
  gemm(sum, rows.codes.to(at::kFloat), weight.codes.to(at::kFloat).t());
  sum.mul_(rows.scales.unsqueeze(1)).mul_(extras.alpha);
  if (extras.bias.defined()) sum.add_(extras.bias);
  if (extras.addend.defined()) sum.add_(extras.addend);
  at::Tensor(out).copy_(sum);
}

}  // namespace qlora
