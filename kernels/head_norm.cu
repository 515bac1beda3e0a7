#include "kernels/common.cuh"
#include "kernels/head_norm.h"

namespace qlora::kernels {
namespace {

constexpr int kThreads = 256;

// The head that a warp works on: a block a row, its warps take the heads in turn.
template <class T>
struct Head {
  const T* weight;  // null: a value head, which passes
  std::int64_t place;
};

template <class T>
__device__ __forceinline__ Head<T> head_of(const HeadNorms<T>& norms, std::int64_t head) {
  const std::int64_t all = norms.heads + 2 * norms.kv_heads;
  const T* weight = head < norms.heads                    ? norms.query_weight
                    : head < norms.heads + norms.kv_heads ? norms.key_weight
                                                          : nullptr;
  return {weight, (blockIdx.x * all + head) * norms.head_dim};
}

// A value head passes. By words: the compiler would move a pack that is not computed with element by element.
template <class T, int V>
__device__ __forceinline__ void copy_head(const T* from, T* to, std::int64_t head_dim, int lane) {
  for (std::int64_t c = lane * V; c < head_dim; c += 32 * V) {
    if constexpr (sizeof(T) * V == 16) {
      __stcg(reinterpret_cast<uint4*>(to + c), *reinterpret_cast<const uint4*>(from + c));
    } else if constexpr (sizeof(T) * V == 8) {
      __stcg(reinterpret_cast<uint2*>(to + c), *reinterpret_cast<const uint2*>(from + c));
    } else {
      to[c] = from[c];
    }
  }
}

// The second read of a head comes from the cache.
template <class T, int V>
__global__ void head_norm_kernel(const T* x, const HeadNorms<T> norms, T* y, float* inverse) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (std::int64_t h = threadIdx.x / 32; h < norms.heads + 2 * norms.kv_heads; h += kThreads / 32) {
    const auto [weight, place] = head_of(norms, h);
    if (weight == nullptr) {
      copy_head<T, V>(x + place, y + place, norms.head_dim, lane);
      continue;
    }
    float squares = 0.0F;
    for (std::int64_t c = lane * V; c < norms.head_dim; c += 32 * V) {
      const auto pack = Pack<T, V>::load(x + place + c);
#pragma unroll
      for (int i = 0; i < V; ++i) squares += pack[i] * pack[i];
    }
    const float inv = 1.0F / sqrtf(warp_sum(squares) / static_cast<float>(norms.head_dim) + norms.epsilon);
    if (lane == 0) inverse[blockIdx.x * (norms.heads + norms.kv_heads) + h] = inv;
    for (std::int64_t c = lane * V; c < norms.head_dim; c += 32 * V) {
      const auto in = Pack<T, V>::load(x + place + c);
      const auto w = Pack<T, V>::load(weight + c);
      Pack<T, V> out;
#pragma unroll
      for (int i = 0; i < V; ++i) out.set(i, in[i] * inv * (norms.offset + w[i]));
      out.store(y + place + c);
    }
  }
}

template <class T, int V>
__global__ void head_norm_backward_kernel(const T* x, const HeadNorms<T> norms, const float* __restrict__ inverse,
                                          const T* d_y, T* d_x, bool accumulate) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (std::int64_t h = threadIdx.x / 32; h < norms.heads + 2 * norms.kv_heads; h += kThreads / 32) {
    const auto [weight, place] = head_of(norms, h);
    if (weight == nullptr && !accumulate) {
      copy_head<T, V>(d_y + place, d_x + place, norms.head_dim, lane);
      continue;
    }
    float inv = 0.0F;
    float mean = 0.0F;
    if (weight != nullptr) {
      inv = inverse[blockIdx.x * (norms.heads + norms.kv_heads) + h];
      for (std::int64_t c = lane * V; c < norms.head_dim; c += 32 * V) {
        const auto in = Pack<T, V>::load(x + place + c);
        const auto d = Pack<T, V>::load(d_y + place + c);
        const auto w = Pack<T, V>::load(weight + c);
#pragma unroll
        for (int i = 0; i < V; ++i) mean += d[i] * (norms.offset + w[i]) * (in[i] * inv);
      }
      mean = warp_sum(mean) / static_cast<float>(norms.head_dim);
    }
    for (std::int64_t c = lane * V; c < norms.head_dim; c += 32 * V) {
      const auto d = Pack<T, V>::load(d_y + place + c);
      const auto in = Pack<T, V>::load(x + place + c);
      Pack<T, V> w = d;
      if (weight != nullptr) w = Pack<T, V>::load(weight + c);
      Pack<T, V> out;
      if (accumulate) out = Pack<T, V>::load(d_x + place + c);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const float g = weight == nullptr ? d[i] : inv * (d[i] * (norms.offset + w[i]) - in[i] * inv * mean);
        out.set(i, accumulate ? out[i] + g : g);
      }
      out.store(d_x + place + c);
    }
  }
}

// Packs of a lane: a head of 128 is one pack of four a lane.
template <class T>
bool packs(const HeadNorms<T>& norms, const T* a, const T* b) {
  return norms.head_dim % 4 == 0 && aligned(a) && aligned(b) && aligned(norms.query_weight) &&
         aligned(norms.key_weight);
}

}  // namespace

template <class T>
cudaError_t head_norm(const T* x, const HeadNorms<T>& norms, T* y, float* inverse, std::int64_t rows,
                      cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  const auto grid = static_cast<unsigned>(rows);
  if (packs(norms, x, y)) {
    head_norm_kernel<T, 4><<<grid, kThreads, 0, stream>>>(x, norms, y, inverse);
  } else {
    head_norm_kernel<T, 1><<<grid, kThreads, 0, stream>>>(x, norms, y, inverse);
  }
  return cudaGetLastError();
}

template <class T>
cudaError_t head_norm_backward(const T* x, const HeadNorms<T>& norms, const float* inverse, const T* d_y, T* d_x,
                               std::int64_t rows, bool accumulate, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  const auto grid = static_cast<unsigned>(rows);
  if (packs(norms, x, static_cast<const T*>(d_x)) && aligned(d_y)) {
    head_norm_backward_kernel<T, 4><<<grid, kThreads, 0, stream>>>(x, norms, inverse, d_y, d_x, accumulate);
  } else {
    head_norm_backward_kernel<T, 1><<<grid, kThreads, 0, stream>>>(x, norms, inverse, d_y, d_x, accumulate);
  }
  return cudaGetLastError();
}

#define INSTANTIATE(T)                                                                                             \
  template cudaError_t head_norm(const T*, const HeadNorms<T>&, T*, float*, std::int64_t, cudaStream_t);           \
  template cudaError_t head_norm_backward(const T*, const HeadNorms<T>&, const float*, const T*, T*, std::int64_t, \
                                          bool, cudaStream_t);
QLORA_FOR_COMPUTE_TYPES(INSTANTIATE)

}  // namespace qlora::kernels
