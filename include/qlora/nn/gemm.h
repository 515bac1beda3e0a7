// Matrix products, with what is added to them in the same pass.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace qlora {

struct GemmExtras {
  double alpha = 1.0;
  at::Tensor addend;  // [m, n] of out's type, may be `out` itself
  at::Tensor bias;    // [n] of out's type
};

// out = alpha * a b + addend + bias. a [m, k], b [k, n], out [m, n]: matrices whose rows or columns lie together, so
// parts of wider ones and transposes, too. out is of a's and b's type, or, with out as the addend, a wider one. Sums
// are taken in float32 (float64 for float64), never TF32. On CUDA through cuBLASLt with an algorithm that is chosen
// once a shape; elsewhere through ATen.
void gemm(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, const GemmExtras& extras = {});

// Bytes that products hold on a device once the first has run.
std::int64_t gemm_workspace_bytes(at::Device device);

}  // namespace qlora
