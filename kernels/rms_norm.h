// Root-mean-square normalization over rows; see nn/rms_norm.h for the formulas.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace qlora::kernels {

// y[i] = round(x[i] * inverse) * weight[i], or, where offset is not 0, x[i] * inverse * (offset + weight[i]), with
// inverse = 1 / sqrt(mean(x^2) + epsilon). x, y [rows, columns] T, weight [columns] T, inverse [rows] float (out).
// T: float, __half, __nv_bfloat16. x and y may be the same.
template <class T>
cudaError_t rms_norm(const T* x, const T* weight, T* y, float* inverse, std::int64_t rows, std::int64_t columns,
                     float epsilon, float offset, cudaStream_t stream);

// With g = d_y * (offset + weight) and n = x * inverse: d_x = inverse * (g - n * mean(g * n)); added to d_x where
// `accumulate`. d_x may be d_y.
template <class T>
cudaError_t rms_norm_backward(const T* x, const T* weight, const float* inverse, const T* d_y, T* d_x,
                              std::int64_t rows, std::int64_t columns, float offset, bool accumulate,
                              cudaStream_t stream);

}  // namespace qlora::kernels
