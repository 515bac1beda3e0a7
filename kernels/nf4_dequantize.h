// NF4 decoding on the GPU, double dequantization included, in one launch (include/qlora/quant/nf4.h has the formula).
// Pointers are the device's; work is queued on `stream`; what comes back is the launch's error.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/float_type.h"

namespace qlora::kernels {

// A row-major matrix [rows, columns] in NF4. absmax is set, or what stands below it.
struct Nf4Matrix {
  std::int64_t rows = 0, columns = 0;
  const std::uint8_t* codes = nullptr;         // [(rows * columns + 1) / 2], 4-byte aligned
  const float* absmax = nullptr;               // [blocks], a block is 64 values
  const std::uint8_t* absmax_codes = nullptr;  // [blocks]
  const float* nested_absmax = nullptr;        // [ceil(blocks / 256)]
  const float* nested_map = nullptr;           // [256]
  float nested_offset = 0.0F;
};

// Row r goes to out + r * pitch (in values; at least `columns`). Fast where a row and the pitch are multiples of 8
// values and `out` is 16-byte aligned, or where pitch == columns.
cudaError_t nf4_dequantize(const Nf4Matrix& matrix, FloatType type, void* out, std::int64_t pitch, cudaStream_t stream);

}  // namespace qlora::kernels
