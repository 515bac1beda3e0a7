#include "kernels/common.cuh"
#include "kernels/cross_entropy.h"

namespace qlora::kernels {
namespace {

constexpr int kThreads = 1024;

// The sum of exp(x - largest), with its largest x: two of them add up without overflow.
struct SoftmaxSum {
  float largest = -INFINITY;
  float sum = 0.0F;

  __device__ __forceinline__ void add(SoftmaxSum other) {
    const float m = fmaxf(largest, other.largest);
    if (m == -INFINITY) return;
    sum = sum * expf(largest - m) + other.sum * expf(other.largest - m);
    largest = m;
  }
};

__device__ SoftmaxSum block_add(SoftmaxSum mine) {
  __shared__ float largest[32];
  __shared__ float sums[32];
  const auto add_warp = [&] {
    for (int offset = 16; offset > 0; offset /= 2) {
      mine.add({__shfl_xor_sync(0xffffffffU, mine.largest, offset), __shfl_xor_sync(0xffffffffU, mine.sum, offset)});
    }
  };
  add_warp();
  if (threadIdx.x % 32 == 0) {
    largest[threadIdx.x / 32] = mine.largest;
    sums[threadIdx.x / 32] = mine.sum;
  }
  __syncthreads();
  mine = {largest[threadIdx.x % 32], sums[threadIdx.x % 32]};
  add_warp();
  return mine;
}

// A block a row: once over it for the sum, once more for the gradient.
template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    cross_entropy_kernel(T* logits, const std::int64_t* __restrict__ targets, float* nll, const float* scale,
                         std::int64_t vocabulary) {
  T* row = logits + blockIdx.x * vocabulary;
  const std::int64_t target = targets[blockIdx.x];
  if (target < 0) {
    if (threadIdx.x == 0) nll[blockIdx.x] = 0.0F;
    if (scale == nullptr) return;
    for (std::int64_t c = threadIdx.x; c < vocabulary; c += kThreads) row[c] = from_float<T>(0.0F);
    return;
  }
  SoftmaxSum sum;
  for (std::int64_t c = threadIdx.x * V; c < vocabulary; c += kThreads * V) {
    const auto pack = Pack<T, V>::load(row + c);
    SoftmaxSum part{pack[0], 0.0F};
#pragma unroll
    for (int i = 1; i < V; ++i) part.largest = fmaxf(part.largest, pack[i]);
    if (part.largest == -INFINITY) continue;
#pragma unroll
    for (int i = 0; i < V; ++i) part.sum += exponential<T>(pack[i] - part.largest);
    sum.add(part);
  }
  sum = block_add(sum);
  const float lse = sum.largest + logf(sum.sum);
  const float of_target = to_float(row[target]);
  __syncthreads();  // all have read the target's logit
  if (threadIdx.x == 0) nll[blockIdx.x] = lse - of_target;
  if (scale == nullptr) return;
  const float factor = *scale;
  for (std::int64_t c = threadIdx.x * V; c < vocabulary; c += kThreads * V) {
    auto pack = Pack<T, V>::load(row + c);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      pack.set(i, exponential<T>(pack[i] - lse) * factor - (c + i == target ? factor : 0.0F));
    }
    pack.store(row + c);
  }
}

__global__ void __launch_bounds__(kThreads)
    scaled_sum_kernel(const float* __restrict__ values, const float* scale, float* out, std::int64_t count) {
  __shared__ float shared[32];
  float sum = 0.0F;
  for (std::int64_t i = threadIdx.x; i < count; i += kThreads) sum += values[i];
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) *out = sum * *scale;
}

}  // namespace

template <class T>
cudaError_t cross_entropy(T* logits, const std::int64_t* targets, float* nll, const float* scale, std::int64_t rows,
                          std::int64_t vocabulary, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  const auto grid = static_cast<unsigned>(rows);
  if (vocabulary % kPack<T> == 0 && aligned(logits)) {
    cross_entropy_kernel<T, kPack<T>><<<grid, kThreads, 0, stream>>>(logits, targets, nll, scale, vocabulary);
  } else {
    cross_entropy_kernel<T, 1><<<grid, kThreads, 0, stream>>>(logits, targets, nll, scale, vocabulary);
  }
  return cudaGetLastError();
}

cudaError_t scaled_sum(const float* values, const float* scale, float* out, std::int64_t count, cudaStream_t stream) {
  scaled_sum_kernel<<<1, kThreads, 0, stream>>>(values, scale, out, count);
  return cudaGetLastError();
}

#define INSTANTIATE(T)                                                                                          \
  template cudaError_t cross_entropy(T*, const std::int64_t*, float*, const float*, std::int64_t, std::int64_t, \
                                     cudaStream_t);
QLORA_FOR_COMPUTE_TYPES(INSTANTIATE)

}  // namespace qlora::kernels
