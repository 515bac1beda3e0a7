// cuBLASLt behind gemm().
#pragma once

#include "qlora/nn/gemm.h"

namespace qlora {

// What every algorithm may use: 32 MiB, as cuBLAS' makers advise for sm_90.
constexpr std::int64_t kCublasLtWorkspaceBytes = std::int64_t{32} << 20;

// Whether it did: false for types and layouts that cuBLASLt does not take, and in builds without CUDA.
bool cublas_lt_gemm(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, const GemmExtras& extras);

}  // namespace qlora
