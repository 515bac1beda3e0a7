#include "qlora/quant/nf4_cuda.h"

#include "qlora/core/error.h"

#ifdef QLORA_CUDA

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <limits>

#include <ATen/ops/full.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "kernels/fp8.h"
#include "kernels/nf4_dequantize.h"
#include "kernels/nf4_matvec.h"
#include "kernels/nf4_quantize.h"

namespace qlora::cuda {
namespace {

kernels::FloatType float_type(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return kernels::FloatType::kFloat32;
    case at::kHalf:
      return kernels::FloatType::kFloat16;
    case at::kBFloat16:
      return kernels::FloatType::kBFloat16;
    default:
      throw RuntimeFailure("NF4 kernels read and write float32, float16 and bfloat16");
  }
}

kernels::Nf4Matrix matrix_of(const Nf4Weight& weight, std::int64_t rows) {
  const Nf4View view = weight.view();
  kernels::Nf4Matrix matrix;
  matrix.rows = rows;
  matrix.columns = rows == 0 ? 0 : view.count / rows;
  matrix.codes = view.codes;
  matrix.absmax = view.absmax;
  matrix.absmax_codes = view.absmax_codes;
  matrix.nested_absmax = view.nested_absmax;
  matrix.nested_map = view.nested_map;
  matrix.nested_offset = view.nested_offset;
  return matrix;
}

}  // namespace

void nf4_quantize(const at::Tensor& values, const at::Tensor& codes, const at::Tensor& absmax,
                  const std::string& name) {
  const c10::cuda::CUDAGuard guard(values.device());
  constexpr std::int64_t kNone = std::numeric_limits<std::int64_t>::max();
  const at::Tensor first_bad = at::full({}, kNone, values.options().dtype(at::kLong));
  C10_CUDA_CHECK(kernels::nf4_quantize(values.const_data_ptr(), float_type(values), values.numel(),
                                       codes.mutable_data_ptr<std::uint8_t>(), absmax.mutable_data_ptr<float>(),
                                       reinterpret_cast<std::uint64_t*>(first_bad.mutable_data_ptr<std::int64_t>()),
                                       c10::cuda::getCurrentCUDAStream()));
  const auto index = first_bad.item<std::int64_t>();
  if (index != kNone) nf4_refuse(name, index, values.view(-1)[index].item<float>());
}

float nf4_nest_absmax(const at::Tensor& absmax, const at::Tensor& map, const at::Tensor& absmax_codes,
                      const at::Tensor& nested_absmax, const std::string& name) {
  const c10::cuda::CUDAGuard guard(absmax.device());
  if (absmax.numel() == 0) return 0.0F;
  const auto offset = absmax.mean().item<float>();
  if (!std::isfinite(offset)) nf4_refuse_nesting(name);
  C10_CUDA_CHECK(kernels::nf4_nest_absmax(absmax.const_data_ptr<float>(), absmax.numel(), offset,
                                          map.const_data_ptr<float>(), absmax_codes.mutable_data_ptr<std::uint8_t>(),
                                          nested_absmax.mutable_data_ptr<float>(), c10::cuda::getCurrentCUDAStream()));
  return offset;
}

void nf4_dequantize(const Nf4Weight& weight, const at::Tensor& out) {
  const c10::cuda::CUDAGuard guard(out.device());
  const kernels::Nf4Matrix matrix = matrix_of(weight, out.dim() > 1 ? out.size(0) : 1);
  const std::int64_t pitch = matrix.rows > 1 ? out.stride(0) : matrix.columns;
  C10_CUDA_CHECK(kernels::nf4_dequantize(matrix, float_type(out), out.mutable_data_ptr(), pitch,
                                         c10::cuda::getCurrentCUDAStream()));
}

void nf4_to_fp8(const Nf4Weight& weight, const at::Tensor& scale, bool transposed, const at::Tensor& out) {
  const c10::cuda::CUDAGuard guard(out.device());
  C10_CUDA_CHECK(kernels::nf4_to_fp8(matrix_of(weight, weight.shape.at(0)), scale.const_data_ptr<float>(), transposed,
                                     static_cast<std::uint8_t*>(out.mutable_data_ptr()), out.stride(0),
                                     c10::cuda::getCurrentCUDAStream()));
}

namespace {

template <class T>
cudaError_t launch_matvec(const kernels::Nf4Stack& stack, const at::Tensor& x, const at::Tensor& addend,
                          const at::Tensor& bias, const at::Tensor& out) {
  kernels::Nf4Product<T> p;
  p.x = static_cast<const T*>(x.const_data_ptr());
  p.x_stride = x.stride(0);
  p.rows = x.size(0);
  if (addend.defined()) {
    p.addend = static_cast<const T*>(addend.const_data_ptr());
    p.addend_stride = addend.stride(0);
  }
  if (bias.defined()) p.bias = static_cast<const T*>(bias.const_data_ptr());
  p.y = static_cast<T*>(out.mutable_data_ptr());
  p.y_stride = out.stride(0);
  return kernels::nf4_matvec(stack, p, c10::cuda::getCurrentCUDAStream());
}

}  // namespace

bool nf4_matvec(const std::vector<const Nf4Weight*>& weights, const at::Tensor& x, const at::Tensor& addend,
                const at::Tensor& bias, const at::Tensor& out) {
  kernels::Nf4Stack stack;
  if (weights.size() > static_cast<std::size_t>(kernels::kMostNf4Members)) return false;
  for (const Nf4Weight* weight : weights) stack.of[stack.count++] = matrix_of(*weight, weight->shape.at(0));
  const bool rows_lie_together = x.stride(1) == 1 && out.stride(1) == 1 && x.stride(0) % 8 == 0 &&
                                 reinterpret_cast<std::uintptr_t>(x.const_data_ptr()) % 32 == 0;
  if (x.size(0) > kernels::kMostMatvecRows || !rows_lie_together || !kernels::nf4_matvec_serves(stack)) return false;
  const c10::cuda::CUDAGuard guard(out.device());
  switch (float_type(out)) {
    case kernels::FloatType::kFloat32:
      C10_CUDA_CHECK(launch_matvec<float>(stack, x, addend, bias, out));
      break;
    case kernels::FloatType::kFloat16:
      C10_CUDA_CHECK(launch_matvec<__half>(stack, x, addend, bias, out));
      break;
    case kernels::FloatType::kBFloat16:
      C10_CUDA_CHECK(launch_matvec<__nv_bfloat16>(stack, x, addend, bias, out));
      break;
  }
  return true;
}

}  // namespace qlora::cuda

#else

namespace qlora::cuda {
namespace {

[[noreturn]] void refuse() {
  throw RuntimeFailure("this build has no CUDA kernels: build with QLORA_CUDA=ON");
}

}  // namespace

void nf4_quantize(const at::Tensor&, const at::Tensor&, const at::Tensor&, const std::string&) {
  refuse();
}
float nf4_nest_absmax(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, const std::string&) {
  refuse();
}
void nf4_dequantize(const Nf4Weight&, const at::Tensor&) {
  refuse();
}
void nf4_to_fp8(const Nf4Weight&, const at::Tensor&, bool, const at::Tensor&) {
  refuse();
}
bool nf4_matvec(const std::vector<const Nf4Weight*>&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                const at::Tensor&) {
  refuse();
}

}  // namespace qlora::cuda

#endif
