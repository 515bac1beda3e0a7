// What kernels share: 16-byte packs, conversions, sums over a block in a fixed order.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace qlora::kernels {

template <class T>
__device__ __forceinline__ float to_float(T x) {
  return static_cast<float>(x);
}

template <class T>
__device__ __forceinline__ T from_float(float x) {
  return static_cast<T>(x);
}

// exp, to the precision that T can tell apart.
template <class T>
__device__ __forceinline__ float exponential(float x) {
  return sizeof(T) < sizeof(float) ? __expf(x) : expf(x);
}

// x as it is after it has been stored in T: the ATen forms round between their steps, and so do the kernels.
template <class T>
__device__ __forceinline__ float rounded(float x) {
  return to_float(from_float<T>(x));
}

// V neighbours, moved by one instruction.
template <class T, int V>
struct alignas(sizeof(T) * V) Pack {
  T values[V];

  __device__ __forceinline__ static Pack load(const T* from) { return *reinterpret_cast<const Pack*>(from); }
  __device__ __forceinline__ void store(T* to) const { *reinterpret_cast<Pack*>(to) = *this; }
  __device__ __forceinline__ float operator[](int i) const { return to_float(values[i]); }
  __device__ __forceinline__ void set(int i, float x) { values[i] = from_float<T>(x); }
};

// Elements of 16 bytes.
template <class T>
constexpr int kPack = 16 / static_cast<int>(sizeof(T));

inline bool aligned(const void* p) {
  return reinterpret_cast<std::uintptr_t>(p) % 16 == 0;
}

// The sum over a warp, known to all of its threads.
__device__ __forceinline__ float warp_sum(float x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffU, x, offset);
  return x;
}

// The block's sum, known to all threads. `shared` holds 32 floats; the block has a multiple of 32 threads.
__device__ __forceinline__ float block_sum(float x, float* shared) {
  x = warp_sum(x);
  const int warps = static_cast<int>(blockDim.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  __syncthreads();  // `shared` may still be read from the sum before
  if (lane == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  return warp_sum(lane < warps ? shared[lane] : 0.0F);
}

// The block's largest, 0 or more, known to all threads; NaN does not count. `shared` holds 32 floats.
__device__ __forceinline__ float block_max(float x, float* shared) {
  const auto warp_max = [](float y) {
    for (int offset = 16; offset > 0; offset /= 2) y = fmaxf(y, __shfl_xor_sync(0xffffffffU, y, offset));
    return y;
  };
  x = warp_max(x);
  const int warps = static_cast<int>(blockDim.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  __syncthreads();
  if (lane == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  return warp_max(lane < warps ? shared[lane] : 0.0F);
}

// Blocks of `threads` for `count` items, bounded so that each thread loops over a few.
inline unsigned grid_for(std::int64_t count, int threads, std::int64_t most = 132 * 32) {
  const std::int64_t blocks = (count + threads - 1) / threads;
  return static_cast<unsigned>(blocks < 1 ? 1 : blocks < most ? blocks : most);
}

}  // namespace qlora::kernels

// Instantiates a launcher of the form cudaError_t NAME<T>(...) for the three types that a GPU computes in.
#define QLORA_FOR_COMPUTE_TYPES(INSTANTIATE) \
  INSTANTIATE(float)                         \
  INSTANTIATE(__half)                        \
  INSTANTIATE(__nv_bfloat16)
