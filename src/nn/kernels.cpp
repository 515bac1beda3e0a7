#include "qlora/nn/kernels.h"

#ifdef QLORA_CUDA
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include <ATen/Context.h>
#include <ATen/cuda/CUDAContextLight.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "qlora/nn/attention.h"
#include "qlora/nn/kv_cache.h"

#include "kernels/cache_attention.h"
#include "kernels/cross_entropy.h"
#include "kernels/dropout.h"
#include "kernels/fp8.h"
#include "kernels/head_norm.h"
#include "kernels/lora.h"
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

kernels::DropoutMask mask_of(const Batch& batch, const DropoutKey& key, double p) {
  return {data<std::int32_t>(batch.token_rows),
          data<std::int64_t>(batch.positions),
          static_cast<const std::uint32_t*>(batch.step_number.data_ptr()),
          static_cast<std::uint32_t>(key.seed) ^ static_cast<std::uint32_t>(key.seed >> 32U),
          key.linear,
          dropout_threshold(p),
          static_cast<float>(1.0 / (1.0 - p))};
}

}  // namespace

bool serves(at::Device device, Dtype dtype) {
  return aten_forms == 0 && device.is_cuda() && (dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16);
}

std::int64_t free_bytes(at::Device device) {
  if (!device.is_cuda() || !at::hasCUDA()) return 0;
  at::globalContext().lazyInitDevice(at::kCUDA);  // the allocator knows no device before
  const c10::cuda::CUDAGuard guard(device);
  std::size_t free = 0;
  std::size_t total = 0;
  C10_CUDA_CHECK(cudaMemGetInfo(&free, &total));
  const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(guard.current_device().index());
  return static_cast<std::int64_t>(free) + stats.reserved_bytes[0].current - stats.allocated_bytes[0].current;
}

void rms_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& y, const at::Tensor& inverse,
              double epsilon, double offset) {
  launch_for(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    return kernels::rms_norm(data<T>(x), data<T>(weight), data<T>(y), data<float>(inverse), x.size(0), x.size(1),
                             static_cast<float>(epsilon), static_cast<float>(offset), stream());
  });
}

void rms_norm_backward(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& inverse, const at::Tensor& d_y,
                       const at::Tensor& d_x, double offset, bool accumulate) {
  launch_for(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    return kernels::rms_norm_backward(data<T>(x), data<T>(weight), data<float>(inverse), data<T>(d_y), data<T>(d_x),
                                      x.size(0), x.size(1), static_cast<float>(offset), accumulate, stream());
  });
}

namespace {

template <class T>
kernels::HeadNorms<T> norms_of(const HeadNorms& n) {
  return {n.heads,
          n.kv_heads,
          n.head_dim,
          data<T>(n.query_weight),
          data<T>(n.key_weight),
          static_cast<float>(n.epsilon),
          static_cast<float>(n.offset)};
}

}  // namespace

void head_norm(const at::Tensor& x, const HeadNorms& norms, const at::Tensor& y, const at::Tensor& inverse) {
  launch_for(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    return kernels::head_norm(data<T>(x), norms_of<T>(norms), data<T>(y), data<float>(inverse), x.size(0), stream());
  });
}

void head_norm_backward(const at::Tensor& x, const HeadNorms& norms, const at::Tensor& inverse, const at::Tensor& d_y,
                        const at::Tensor& d_x, bool accumulate) {
  launch_for(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    return kernels::head_norm_backward(data<T>(x), norms_of<T>(norms), data<float>(inverse), data<T>(d_y), data<T>(d_x),
                                       x.size(0), accumulate, stream());
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
  const kernels::DropoutMask mask = mask_of(batch, key, p);
  launch_for(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    return kernels::dropout(data<T>(x), data<T>(out), mask, x.size(0), x.size(1), accumulate, stream());
  });
}

namespace {

// Rows may lie apart.
template <class T>
T* rows(const at::Tensor& x) {
  TORCH_CHECK(x.dim() == 2 && (x.stride(1) == 1 || x.size(1) == 1), "kernels take rows without gaps");
  return static_cast<T*>(x.data_ptr());
}

// Ten times the major version, and the minor one; 90 where there is no card: planned for another machine.
int compute_capability(at::Device device) {
  if (c10::cuda::device_count() == 0) return 90;
  const auto* card = at::cuda::getDeviceProperties(device.index() < 0 ? c10::DeviceIndex{0} : device.index());
  return 10 * card->major + card->minor;
}

bool has_tensor_cores(at::Device device) {
  return compute_capability(device) >= 80;
}

template <class T>
kernels::LoraAdapters<T> adapters_of(const std::vector<LoraDown>& adapters, const Batch& batch) {
  kernels::LoraAdapters<T> made{};
  made.count = static_cast<int>(adapters.size());
  for (std::size_t i = 0; i < adapters.size(); ++i) {
    const LoraDown& from = adapters[i];
    made.of[i] = {
        data<T>(from.a), from.d_a.defined() ? data<float>(from.d_a) : nullptr, static_cast<int>(from.a.size(0)),
        static_cast<int>(from.column),
        batch.training && from.dropout > 0.0 ? mask_of(batch, from.key, from.dropout) : kernels::DropoutMask{}};
  }
  return made;
}

// As launch_for, for the types that tensor cores multiply.
template <class Launch>
void launch_for_halves(Dtype dtype, const Launch& launch) {
  if (dtype == at::kHalf) {
    C10_CUDA_CHECK(launch(__half{}));
  } else {
    TORCH_CHECK(dtype == at::kBFloat16, "no kernels for ", dtype);
    C10_CUDA_CHECK(launch(__nv_bfloat16{}));
  }
}

}  // namespace

bool multiplies_fp8(at::Device device) {
  return device.is_cuda() && compute_capability(device) == 90;
}

void fp8_quantize_rows(const at::Tensor& x, const at::Tensor& factor, const at::Tensor& codes,
                       const at::Tensor& scales) {
  launch_for(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    return kernels::fp8_quantize_rows(data<T>(x), x.size(0), x.size(1), data<float>(factor), data<std::uint8_t>(codes),
                                      data<float>(scales), stream());
  });
}

bool serves_lora(at::Device device, Dtype dtype, std::int64_t in, const std::vector<std::int64_t>& ranks) {
  const auto whole = [](std::int64_t rank) { return rank % 8 == 0; };
  return serves(device, dtype) && dtype != at::kFloat && in % 8 == 0 &&
         ranks.size() <= static_cast<std::size_t>(kernels::kMostLoraAdapters) &&
         std::all_of(ranks.begin(), ranks.end(), whole) && has_tensor_cores(device);
}

void lora_down(const at::Tensor& x, const std::vector<LoraDown>& adapters, const Batch& batch, const at::Tensor& u) {
  launch_for_halves(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    return kernels::lora_down<T>(rows<T>(x), x.stride(0), adapters_of<T>(adapters, batch), data<T>(u), x.size(0),
                                 x.size(1), u.size(1), stream());
  });
}

std::int64_t lora_workspace(std::int64_t tokens, std::int64_t in, std::int64_t ranks) {
  return kernels::lora_workspace(tokens, in, ranks);
}

void lora_down_backward(const at::Tensor& x, const at::Tensor& d_u, const std::vector<LoraDown>& adapters,
                        const Batch& batch, const at::Tensor& d_x, bool accumulate, const at::Tensor& workspace) {
  launch_for_halves(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    return kernels::lora_down_backward<T>(rows<T>(x), x.stride(0), data<T>(d_u), adapters_of<T>(adapters, batch),
                                          d_x.defined() ? rows<T>(d_x) : nullptr, d_x.defined() ? d_x.stride(0) : 0,
                                          accumulate, data<float>(workspace), x.size(0), x.size(1), d_u.size(1),
                                          stream());
  });
}

void lora_up(const at::Tensor& u, const std::vector<LoraUp>& adapters, const at::Tensor& residual,
             const at::Tensor& y) {
  launch_for_halves(y.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    kernels::LoraOutputs<T> outputs{};
    outputs.count = static_cast<int>(adapters.size());
    for (std::size_t i = 0; i < adapters.size(); ++i) {
      const LoraUp& from = adapters[i];
      outputs.of[i] = {data<T>(from.b),
                       static_cast<int>(from.b.size(1)),
                       static_cast<int>(from.column),
                       static_cast<int>(from.begin),
                       static_cast<int>(from.b.size(0)),
                       static_cast<float>(from.scale)};
    }
    return kernels::lora_up<T>(data<T>(u), outputs, residual.defined() ? data<T>(residual) : nullptr, data<T>(y),
                               y.size(0), u.size(1), y.size(1), stream());
  });
}

namespace {

template <class T>
kernels::CacheAttention<T> cache_of(const at::Tensor& qkv, const Batch& batch, const AttentionShape& s,
                                    std::int64_t layer) {
  kernels::CacheAttention<T> a;
  a.qkv = data<T>(qkv);
  a.slots = data<std::int64_t>(batch.slots);
  a.positions = data<std::int64_t>(batch.positions);
  a.keys = data<T>(batch.cache->keys(layer));
  a.values = data<T>(batch.cache->values(layer));
  a.tokens = qkv.size(0);
  a.capacity = batch.cache->capacity();
  a.heads = static_cast<int>(s.heads);
  a.kv_heads = static_cast<int>(s.kv_heads);
  a.head_dim = static_cast<int>(s.head_dim);
  a.scale = static_cast<float>(s.scale);
  a.window = static_cast<int>(s.window);
  a.softcap = static_cast<float>(s.softcap);
  return a;
}

}  // namespace

bool serves_cache(at::Device device, Dtype dtype, const AttentionShape& shape) {
  return serves(device, dtype) && shape.head_dim % 8 == 0 && shape.head_dim <= 256;
}

void cache_append(const at::Tensor& qkv, const Batch& batch, const AttentionShape& shape, std::int64_t layer) {
  launch_for(qkv.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    return kernels::cache_append(cache_of<T>(qkv, batch, shape, layer), stream());
  });
}

void cache_attention(const at::Tensor& qkv, const Batch& batch, const AttentionShape& shape, std::int64_t layer,
                     const at::Tensor& out) {
  const auto heads = static_cast<int>(shape.heads);
  const auto head_dim = static_cast<int>(shape.head_dim);
  const std::int64_t longest =
      shape.window > 0 ? std::min<std::int64_t>(shape.window, batch.max_length) : batch.max_length;
  const int splits = kernels::cache_attention_splits(qkv.size(0), heads, static_cast<int>(shape.kv_heads), longest);
  const std::int64_t partials = kernels::cache_attention_partials(qkv.size(0), heads, head_dim, splits);
  const at::Tensor partial = at::empty({partials}, qkv.options().dtype(at::kFloat));
  launch_for(qkv.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    return kernels::cache_attention(cache_of<T>(qkv, batch, shape, layer), splits, data<float>(partial), data<T>(out),
                                    stream());
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
std::int64_t free_bytes(at::Device) {
  return 0;
}
bool serves_lora(at::Device, Dtype, std::int64_t, const std::vector<std::int64_t>&) {
  return false;
}
std::int64_t lora_workspace(std::int64_t, std::int64_t, std::int64_t) {
  return 0;
}

namespace {
void absent() {
  TORCH_CHECK(false, "this build has no CUDA kernels");
}
}  // namespace

// clang-format off
void rms_norm(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, double, double) { absent(); }
void rms_norm_backward(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                       double, bool) { absent(); }
void head_norm(const at::Tensor&, const HeadNorms&, const at::Tensor&, const at::Tensor&) { absent(); }
void head_norm_backward(const at::Tensor&, const HeadNorms&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                        bool) { absent(); }
void rope(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, std::int64_t, std::int64_t,
          double) { absent(); }
void swiglu(const at::Tensor&, const at::Tensor&) { absent(); }
void swiglu_backward(const at::Tensor&, const at::Tensor&, const at::Tensor&, bool) { absent(); }
void dropout(const at::Tensor&, const at::Tensor&, const Batch&, const DropoutKey&, double, bool) { absent(); }
bool multiplies_fp8(at::Device) { return false; }
void fp8_quantize_rows(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&) { absent(); }
void lora_down(const at::Tensor&, const std::vector<LoraDown>&, const Batch&, const at::Tensor&) { absent(); }
void lora_down_backward(const at::Tensor&, const at::Tensor&, const std::vector<LoraDown>&, const Batch&,
                        const at::Tensor&, bool, const at::Tensor&) { absent(); }
void lora_up(const at::Tensor&, const std::vector<LoraUp>&, const at::Tensor&, const at::Tensor&) { absent(); }
bool serves_cache(at::Device, Dtype, const AttentionShape&) { return false; }
void cache_append(const at::Tensor&, const Batch&, const AttentionShape&, std::int64_t) { absent(); }
void cache_attention(const at::Tensor&, const Batch&, const AttentionShape&, std::int64_t, const at::Tensor&) {
  absent();
}
void cross_entropy(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&) { absent(); }
void scaled_sum(const at::Tensor&, const at::Tensor&, const at::Tensor&) { absent(); }
void zero_tail(const at::Tensor&, const at::Tensor&) { absent(); }
// clang-format on

#endif

}  // namespace qlora::gpu
