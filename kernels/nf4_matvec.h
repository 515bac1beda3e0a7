// Products of a few rows with weights in NF4, decoded on the way (double dequantization included): for batches that are
// too small to pay for writing the decoded weights. Pointers are the device's; work is queued on `stream`; what comes
// back is the launch's error. Instantiated for float, __half and __nv_bfloat16.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/nf4_dequantize.h"

namespace qlora::kernels {

constexpr int kMostNf4Members = 4;
constexpr std::int64_t kMostMatvecRows = 8;

// Matrices of as many columns, stacked: the weights that share an input.
struct Nf4Stack {
  int count = 0;
  Nf4Matrix of[kMostNf4Members];
};

// Whether every row of each begins with a block, and the kernel's tiles fit.
bool nf4_matvec_serves(const Nf4Stack& weights);

template <class T>
struct Nf4Product {
  const T* x = nullptr;  // [rows, columns]
  std::int64_t x_stride = 0, rows = 0;
  const T* addend = nullptr;  // [rows, all weights' rows], or null; may be y
  std::int64_t addend_stride = 0;
  const T* bias = nullptr;  // [all weights' rows], or null
  T* y = nullptr;           // [rows, all weights' rows]
  std::int64_t y_stride = 0;
};

// y = x w^T + addend + bias, for at most kMostMatvecRows rows; x and its stride are aligned to 16 bytes. Sums are taken
// in float32. Of weights the code's value is rounded to T, on tensor cores, where dequantization rounds its product
// with the block's absmax.
template <class T>
cudaError_t nf4_matvec(const Nf4Stack& weights, const Nf4Product<T>& p, cudaStream_t stream);

}  // namespace qlora::kernels
