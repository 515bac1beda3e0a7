// Matrices in fp8 (e4m3: 4 bits of exponent, 3 of fraction, up to 448), which tensor cores multiply at twice the rate
// of 16-bit ones. Pointers are the device's; work is queued on `stream`; what comes back is the launch's error.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/nf4_dequantize.h"

namespace qlora::kernels {

// codes [rows, columns] = e4m3(x * 448 / m), m [rows] the largest |x| of each row; scales [rows] = m / 448 * *factor.
// NaN stays NaN. x is 16-byte aligned, `columns` a multiple of 16.
template <class T>
cudaError_t fp8_quantize_rows(const T* x, std::int64_t rows, std::int64_t columns, const float* factor,
                              std::uint8_t* codes, float* scales, cudaStream_t stream);

// codes = e4m3(w * scale[1]), w an NF4 matrix [n, k] and n and k multiples of 16: as [n, k], or transposed as [k, n],
// rows `pitch` bytes apart, a multiple of 16.
cudaError_t nf4_to_fp8(const Nf4Matrix& matrix, const float* scale, bool transposed, std::uint8_t* codes,
                       std::int64_t pitch, cudaStream_t stream);

}  // namespace qlora::kernels
