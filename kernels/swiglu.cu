#include "kernels/common.cuh"
#include "kernels/swiglu.h"

namespace qlora::kernels {
namespace {

__device__ __forceinline__ float sigmoid(float x) {
  return 1.0F / (1.0F + expf(-x));
}

template <class T, int V>
__global__ void swiglu_kernel(const T* __restrict__ x, T* __restrict__ y, std::int64_t rows, std::int64_t columns) {
  const std::int64_t per_row = columns / V;
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < rows * per_row;
       i += stride) {
    const std::int64_t row = i / per_row;
    const std::int64_t column = i % per_row * V;
    const auto gate = Pack<T, V>::load(x + row * 2 * columns + column);
    const auto up = Pack<T, V>::load(x + row * 2 * columns + columns + column);
    Pack<T, V> out;
#pragma unroll
    for (int j = 0; j < V; ++j) out.set(j, rounded<T>(gate[j] * sigmoid(gate[j])) * up[j]);
    out.store(y + row * columns + column);
  }
}

// Each thread reads its gate and up before it writes over them.
template <class T, int V>
__global__ void swiglu_backward_kernel(const T* x, const T* __restrict__ d_y, T* d_x, std::int64_t rows,
                                       std::int64_t columns, bool accumulate) {
  const std::int64_t per_row = columns / V;
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < rows * per_row;
       i += stride) {
    const std::int64_t row = i / per_row;
    const std::int64_t column = i % per_row * V;
    const std::int64_t at_gate = row * 2 * columns + column;
    const std::int64_t at_up = at_gate + columns;
    const auto gate = Pack<T, V>::load(x + at_gate);
    const auto up = Pack<T, V>::load(x + at_up);
    const auto d = Pack<T, V>::load(d_y + row * columns + column);
    Pack<T, V> d_gate;
    Pack<T, V> d_up;
    if (accumulate) {
      d_gate = Pack<T, V>::load(d_x + at_gate);
      d_up = Pack<T, V>::load(d_x + at_up);
    }
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const float s = sigmoid(gate[j]);
      const float to_up = rounded<T>(gate[j] * s) * d[j];
      const float to_gate = rounded<T>(d[j] * up[j]) * s * (1.0F + gate[j] * (1.0F - s));
      d_gate.set(j, accumulate ? d_gate[j] + rounded<T>(to_gate) : to_gate);
      d_up.set(j, accumulate ? d_up[j] + rounded<T>(to_up) : to_up);
    }
    d_gate.store(d_x + at_gate);
    d_up.store(d_x + at_up);
  }
}

constexpr int kThreads = 256;

}  // namespace

template <class T>
cudaError_t swiglu(const T* x, T* y, std::int64_t rows, std::int64_t columns, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  if (columns % kPack<T> == 0 && aligned(x) && aligned(y)) {
    swiglu_kernel<T, kPack<T>>
        <<<grid_for(rows * columns / kPack<T>, kThreads), kThreads, 0, stream>>>(x, y, rows, columns);
  } else {
    swiglu_kernel<T, 1><<<grid_for(rows * columns, kThreads), kThreads, 0, stream>>>(x, y, rows, columns);
  }
  return cudaGetLastError();
}

template <class T>
cudaError_t swiglu_backward(const T* x, const T* d_y, T* d_x, std::int64_t rows, std::int64_t columns, bool accumulate,
                            cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  if (columns % kPack<T> == 0 && aligned(x) && aligned(d_y) && aligned(d_x)) {
    swiglu_backward_kernel<T, kPack<T>><<<grid_for(rows * columns / kPack<T>, kThreads), kThreads, 0, stream>>>(
        x, d_y, d_x, rows, columns, accumulate);
  } else {
    swiglu_backward_kernel<T, 1>
        <<<grid_for(rows * columns, kThreads), kThreads, 0, stream>>>(x, d_y, d_x, rows, columns, accumulate);
  }
  return cudaGetLastError();
}

#define INSTANTIATE(T)                                                                 \
  template cudaError_t swiglu(const T*, T*, std::int64_t, std::int64_t, cudaStream_t); \
  template cudaError_t swiglu_backward(const T*, const T*, T*, std::int64_t, std::int64_t, bool, cudaStream_t);
QLORA_FOR_COMPUTE_TYPES(INSTANTIATE)

}  // namespace qlora::kernels
