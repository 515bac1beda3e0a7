#include "qlora/nn/kernels.h"

#ifdef QLORA_CUDA
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include "kernels/cross_entropy.h"
#include "kernels/dropout.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/swiglu.h"
#include "kernels/zero_tail.h"
#endif

namespace qlora::gpu {
namespace {

int aten_forms = 0;  // how many AtenForms live

}  // namespace

AtenForms::AtenForms() {
  ++aten_forms;
}
AtenForms::~AtenForms() {
  --aten_forms;
}

#ifdef QLORA_CUDA

namespace {

cudaStream_t stream() {
  return c10::cuda::getCurrentCUDAStream();
}

// Calls launch with a value of the C++ type of `dtype`.
template <class Launch>
void launch_for(Dtype dtype, const Launch& launch) {
  if (dtype == at::kFloat) {
    C10_CUDA_CHECK(launch(float{}));
  } else if (dtype == at::kHalf) {
    C10_CUDA_CHECK(launch(__half{}));
  } else {
    TORCH_CHECK(dtype == at::kBFloat16, "no kernels for ", dtype);
    C10_CUDA_CHECK(launch(__nv_bfloat16{}));
  }
}

template <class T>
T* data(const at::Tensor& x) {
  TORCH_CHECK(x.is_contiguous(), "kernels take contiguous tensors");
  return static_cast<T*>(x.data_ptr());
}

}  // namespace

bool serves(at::Device device, Dtype dtype) {
  return aten_forms == 0 && device.is_cuda() && (dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16);
}

void rms_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& y, const at::Tensor& inverse,
              double epsilon) {
  launch_for(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    return kernels::rms_norm(data<T>(x), data<T>(weight), data<T>(y), data<float>(inverse), x.size(0), x.size(1),
                             static_cast<float>(epsilon), stream());
  });
}

void rms_norm_backward(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& inverse, const at::Tensor& d_y,
                       const at::Tensor& d_x, bool accumulate) {
  launch_for(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    return kernels::rms_norm_backward(data<T>(x), data<T>(weight), data<float>(inverse), data<T>(d_y), data<T>(d_x),
                                      x.size(0), x.size(1), accumulate, stream());
  });
}

void rope(const at::Tensor& x, const at::Tensor& positions, const at::Tensor& cos, const at::Tensor& sin,
          std::int64_t rotated_heads, std::int64_t heads, double sign) {
  launch_for(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    return kernels::rope(data<T>(x), data<std::int64_t>(positions), data<float>(cos), data<float>(sin), x.size(0),
                         rotated_heads, heads, x.size(1) / heads, static_cast<float>(sign), stream());
  });
}

void swiglu(const at::Tensor& x, const at::Tensor& y) {
  launch_for(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    return kernels::swiglu(data<T>(x), data<T>(y), y.size(0), y.size(1), stream());
  });
}

void swiglu_backward(const at::Tensor& x, const at::Tensor& d_y, const at::Tensor& d_x, bool accumulate) {
  launch_for(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    return kernels::swiglu_backward(data<T>(x), data<T>(d_y), data<T>(d_x), d_y.size(0), d_y.size(1), accumulate,
                                    stream());
  });
}

void dropout(const at::Tensor& x, const at::Tensor& out, const Batch& batch, const DropoutKey& key, double p,
             bool accumulate) {
  const kernels::DropoutMask mask{data<std::int32_t>(batch.token_rows),
                                  data<std::int64_t>(batch.positions),
                                  static_cast<const std::uint32_t*>(batch.step_number.data_ptr()),
                                  static_cast<std::uint32_t>(key.seed) ^ static_cast<std::uint32_t>(key.seed >> 32U),
                                  key.linear,
                                  static_cast<std::uint32_t>(p * 4294967296.0),
                                  static_cast<float>(1.0 / (1.0 - p))};
  launch_for(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    return kernels::dropout(data<T>(x), data<T>(out), mask, x.size(0), x.size(1), accumulate, stream());
  });
}

void cross_entropy(const at::Tensor& logits, const at::Tensor& targets, const at::Tensor& nll,
                   const at::Tensor& scale) {
  launch_for(logits.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    return kernels::cross_entropy(data<T>(logits), data<std::int64_t>(targets), data<float>(nll),
                                  scale.defined() ? data<float>(scale) : nullptr, logits.size(0), logits.size(1),
                                  stream());
  });
}

void scaled_sum(const at::Tensor& values, const at::Tensor& scale, const at::Tensor& out) {
  C10_CUDA_CHECK(
      kernels::scaled_sum(data<float>(values), data<float>(scale), data<float>(out), values.numel(), stream()));
}

void zero_tail(const at::Tensor& x, const at::Tensor& bounds) {
  C10_CUDA_CHECK(kernels::zero_tail(data<void>(x), data<std::int32_t>(bounds) + bounds.size(0) - 1, x.size(0),
                                    x.stride(0) * x.element_size(), stream()));
}

#else

bool serves(at::Device, Dtype) {
  return false;
}

namespace {
void absent() {
  TORCH_CHECK(false, "this build has no CUDA kernels");
}
}  // namespace

// clang-format off
void rms_norm(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, double) { absent(); }
void rms_norm_backward(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                       bool) { absent(); }
void rope(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, std::int64_t, std::int64_t,
          double) { absent(); }
void swiglu(const at::Tensor&, const at::Tensor&) { absent(); }
void swiglu_backward(const at::Tensor&, const at::Tensor&, const at::Tensor&, bool) { absent(); }
void dropout(const at::Tensor&, const at::Tensor&, const Batch&, const DropoutKey&, double, bool) { absent(); }
void cross_entropy(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&) { absent(); }
void scaled_sum(const at::Tensor&, const at::Tensor&, const at::Tensor&) { absent(); }
void zero_tail(const at::Tensor&, const at::Tensor&) { absent(); }
// clang-format on

#endif

}  // namespace qlora::gpu
