// AdamW's steps on a GPU: the kernels' launches, and the paging of moments that live in host memory.
#pragma once

#include <memory>

#include "qlora/train/optimizer.h"

namespace qlora {

// The most values whose paged moments lie in one of the two buffers on the device.
inline constexpr std::int64_t kPagedChunk = std::int64_t{1} << 20;

class DeviceAdamW {
 public:
  virtual ~DeviceAdamW() = default;

  // As AdamW::step; `step` counts from 1.
  virtual at::Tensor step(const AdamWScalars& scalars, double max_norm, const at::Tensor& loss, std::int64_t step) = 0;

  virtual std::int64_t failed_step() const = 0;
  virtual void forget_failure() = 0;

  // Until paged moments are back in host memory.
  virtual void wait() const = 0;
};

// `parameters` and `moments` must outlive it; moments that are paged are tensors in pinned host memory. Throws
// RuntimeFailure in a build without CUDA.
std::unique_ptr<DeviceAdamW> make_cuda_adamw(ParameterSet& parameters, const AdamWMoments& moments);

}  // namespace qlora
