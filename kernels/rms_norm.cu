#include "kernels/common.cuh"
#include "kernels/rms_norm.h"

namespace qlora::kernels {
namespace {

// A block a row. The second read of the row comes from the cache.
template <class T, int V>
__global__ void rms_norm_kernel(const T* __restrict__ x, const T* __restrict__ weight, T* y, float* inverse,
                                std::int64_t columns, float epsilon, float offset) {
  __shared__ float shared[32];
  const std::int64_t row = blockIdx.x;
  const T* in = x + row * columns;
  float squares = 0.0F;
  for (std::int64_t c = threadIdx.x * V; c < columns; c += blockDim.x * V) {
    const auto pack = Pack<T, V>::load(in + c);
#pragma unroll
    for (int i = 0; i < V; ++i) squares += pack[i] * pack[i];
  }
  const float mean = block_sum(squares, shared) / static_cast<float>(columns);
  const float inv = 1.0F / sqrtf(mean + epsilon);
  if (threadIdx.x == 0) inverse[row] = inv;
  for (std::int64_t c = threadIdx.x * V; c < columns; c += blockDim.x * V) {
    const auto pack = Pack<T, V>::load(in + c);
    const auto w = Pack<T, V>::load(weight + c);
    Pack<T, V> out;
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const float n = pack[i] * inv;
      out.set(i, offset == 0.0F ? rounded<T>(n) * w[i] : n * (offset + w[i]));
    }
    out.store(y + row * columns + c);
  }
}

template <class T, int V>
__global__ void rms_norm_backward_kernel(const T* __restrict__ x, const T* __restrict__ weight,
                                         const float* __restrict__ inverse, const T* d_y, T* d_x, std::int64_t columns,
                                         float offset, bool accumulate) {
  __shared__ float shared[32];
  const std::int64_t begin = blockIdx.x * columns;
  const float inv = inverse[blockIdx.x];
  float product = 0.0F;
  for (std::int64_t c = threadIdx.x * V; c < columns; c += blockDim.x * V) {
    const auto in = Pack<T, V>::load(x + begin + c);
    const auto d = Pack<T, V>::load(d_y + begin + c);
    const auto w = Pack<T, V>::load(weight + c);
#pragma unroll
    for (int i = 0; i < V; ++i) product += d[i] * (offset + w[i]) * (in[i] * inv);
  }
  const float mean = block_sum(product, shared) / static_cast<float>(columns);
  for (std::int64_t c = threadIdx.x * V; c < columns; c += blockDim.x * V) {
    const auto in = Pack<T, V>::load(x + begin + c);
    const auto d = Pack<T, V>::load(d_y + begin + c);
    const auto w = Pack<T, V>::load(weight + c);
    Pack<T, V> out;
    if (accumulate) out = Pack<T, V>::load(d_x + begin + c);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const float g = inv * (d[i] * (offset + w[i]) - in[i] * inv * mean);
      out.set(i, accumulate ? out[i] + g : g);
    }
    out.store(d_x + begin + c);
  }
}

int threads_for(std::int64_t columns, int pack) {
  const std::int64_t packs = (columns + pack - 1) / pack;
  return packs >= 512 ? 512 : static_cast<int>((packs + 31) / 32 * 32);
}

}  // namespace

template <class T>
cudaError_t rms_norm(const T* x, const T* weight, T* y, float* inverse, std::int64_t rows, std::int64_t columns,
                     float epsilon, float offset, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  const auto grid = static_cast<unsigned>(rows);
  if (columns % kPack<T> == 0 && aligned(x) && aligned(weight) && aligned(y)) {
    rms_norm_kernel<T, kPack<T>>
        <<<grid, threads_for(columns, kPack<T>), 0, stream>>>(x, weight, y, inverse, columns, epsilon, offset);
  } else {
    rms_norm_kernel<T, 1>
        <<<grid, threads_for(columns, 1), 0, stream>>>(x, weight, y, inverse, columns, epsilon, offset);
  }
  return cudaGetLastError();
}

template <class T>
cudaError_t rms_norm_backward(const T* x, const T* weight, const float* inverse, const T* d_y, T* d_x,
                              std::int64_t rows, std::int64_t columns, float offset, bool accumulate,
                              cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  const auto grid = static_cast<unsigned>(rows);
  if (columns % kPack<T> == 0 && aligned(x) && aligned(weight) && aligned(d_y) && aligned(d_x)) {
    rms_norm_backward_kernel<T, kPack<T>><<<grid, threads_for(columns, kPack<T>), 0, stream>>>(
        x, weight, inverse, d_y, d_x, columns, offset, accumulate);
  } else {
    rms_norm_backward_kernel<T, 1>
        <<<grid, threads_for(columns, 1), 0, stream>>>(x, weight, inverse, d_y, d_x, columns, offset, accumulate);
  }
  return cudaGetLastError();
}

#define INSTANTIATE(T)                                                                                               \
  template cudaError_t rms_norm(const T*, const T*, T*, float*, std::int64_t, std::int64_t, float, float,            \
                                cudaStream_t);                                                                       \
  template cudaError_t rms_norm_backward(const T*, const T*, const float*, const T*, T*, std::int64_t, std::int64_t, \
                                         float, bool, cudaStream_t);
QLORA_FOR_COMPUTE_TYPES(INSTANTIATE)

}  // namespace qlora::kernels
