#include "kernels/common.cuh"
#include "kernels/rope.h"

namespace qlora::kernels {
namespace {

// A thread rotates V neighbours of a head's first half against those of its second. A block a token.
template <class T, int V>
__global__ void rope_kernel(T* x, const std::int64_t* __restrict__ positions, const float* __restrict__ cos,
                            const float* __restrict__ sin, int rotated_heads, std::int64_t row_size, int half,
                            float sign) {
  const std::int64_t token = blockIdx.x;
  const std::int64_t angles = positions[token] * half;
  const int per_head = half / V;
  for (int i = static_cast<int>(threadIdx.x); i < rotated_heads * per_head; i += static_cast<int>(blockDim.x)) {
    const int column = i % per_head * V;
    T* first = x + token * row_size + static_cast<std::int64_t>(i / per_head) * 2 * half + column;
    auto a = Pack<T, V>::load(first);
    auto b = Pack<T, V>::load(first + half);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const float c = cos[angles + column + j];
      const float s = sign * sin[angles + column + j];
      const float x1 = a[j];
      const float x2 = b[j];
      a.set(j, x1 * c - x2 * s);
      b.set(j, x2 * c + x1 * s);
    }
    a.store(first);
    b.store(first + half);
  }
}

}  // namespace

template <class T>
cudaError_t rope(T* x, const std::int64_t* positions, const float* cos, const float* sin, std::int64_t tokens,
                 std::int64_t rotated_heads, std::int64_t heads, std::int64_t head_dim, float sign,
                 cudaStream_t stream) {
  if (tokens == 0) return cudaSuccess;
  const auto grid = static_cast<unsigned>(tokens);
  const int half = static_cast<int>(head_dim / 2);
  const int rotated = static_cast<int>(rotated_heads);
  if (half % kPack<T> == 0 && aligned(x)) {
    rope_kernel<T, kPack<T>><<<grid, 128, 0, stream>>>(x, positions, cos, sin, rotated, heads * head_dim, half, sign);
  } else {
    rope_kernel<T, 1><<<grid, 128, 0, stream>>>(x, positions, cos, sin, rotated, heads * head_dim, half, sign);
  }
  return cudaGetLastError();
}

#define INSTANTIATE(T)                                                                                       \
  template cudaError_t rope(T*, const std::int64_t*, const float*, const float*, std::int64_t, std::int64_t, \
                            std::int64_t, std::int64_t, float, cudaStream_t);
QLORA_FOR_COMPUTE_TYPES(INSTANTIATE)

}  // namespace qlora::kernels
