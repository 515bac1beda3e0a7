// cuBLASLt behind gemm().
#pragma once

#include "qlora/nn/gemm.h"

namespace qlora {

// What every algorithm may use: 32 MiB, as cuBLAS' makers advise for sm_90.
constexpr std::int64_t kCublasLtWorkspaceBytes = std::int64_t{32} << 20;

// Whether it did: false for types and layouts that cuBLASLt does not take, and in builds without CUDA.
bool cublas_lt_gemm(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, const GemmExtras& extras);

// out [m, n] = diag(scales) codes w^T + addend + bias, with codes [m, k] and w [n, k] in e4m3 and scales float32 [m];
// out, addend and bias in a 16-bit type. Whether it did, as above.
bool cublas_lt_fp8_gemm(const at::Tensor& out, const at::Tensor& codes, const at::Tensor& scales, const at::Tensor& w,
                        bool fast_sums, const GemmExtras& extras);

}  // namespace qlora
