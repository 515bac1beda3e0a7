// Root-mean-square normalization of each query and key head; see nn/head_norm.h for the formulas.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace qlora::kernels {

// A row of x is `heads` query heads, `kv_heads` key heads and as many value heads, of head_dim elements each.
template <class T>
struct HeadNorms {
  std::int64_t heads, kv_heads, head_dim;
  const T* query_weight;  // [head_dim]
  const T* key_weight;    // [head_dim]
  float epsilon, offset;
};

// y = x * inverse * (offset + weight), inverse = 1 / sqrt(mean(x^2) + epsilon), for query and key heads; y = x for
// value heads. x, y [rows, (heads + 2 kv_heads) * head_dim] T, inverse [rows, heads + kv_heads] float (out). T: float,
// __half, __nv_bfloat16. x and y may be the same.
template <class T>
cudaError_t head_norm(const T* x, const HeadNorms<T>& norms, T* y, float* inverse, std::int64_t rows,
                      cudaStream_t stream);

// With g = d_y * (offset + weight) and n = x * inverse: d_x = inverse * (g - n * mean(g * n)), and d_y for value heads;
// added to d_x where `accumulate`. d_x may be x or d_y.
template <class T>
cudaError_t head_norm_backward(const T* x, const HeadNorms<T>& norms, const float* inverse, const T* d_y, T* d_x,
                               std::int64_t rows, bool accumulate, cudaStream_t stream);

}  // namespace qlora::kernels
