// Values in host memory that a GPU computes with.
#pragma once

#include <ATen/core/Tensor.h>

namespace qlora {

// A copy of `values` in pinned host memory, as a tensor of their own device: its kernels read what they ask for over
// the bus, at the same address in every CUDA graph. Worth it for what is read in small parts. On the CPU a plain copy.
// Waits for the device.
at::Tensor in_host_memory(const at::Tensor& values);

}  // namespace qlora
