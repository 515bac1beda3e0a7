#include "kernels/dropout.h"

#include "kernels/common.cuh"

namespace qlora::kernels {
namespace {

// Philox4x32-10, as qlora::philox.
__device__ __forceinline__ uint4 philox(uint4 counter, uint2 key) {
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const std::uint32_t a_low = 0xD2511F53U * counter.x;
    const std::uint32_t a_high = __umulhi(0xD2511F53U, counter.x);
    const std::uint32_t b_low = 0xCD9E8D57U * counter.z;
    const std::uint32_t b_high = __umulhi(0xCD9E8D57U, counter.z);
    counter = {b_high ^ counter.y ^ key.x, b_low, a_high ^ counter.w ^ key.y, a_low};
    key = {key.x + 0x9E3779B9U, key.y + 0xBB67AE85U};
  }
  return counter;
}

// A thread four features: those of one random draw.
template <class T, int V>
__global__ void dropout_kernel(const T* x, T* out, DropoutMask mask, std::int64_t tokens, std::int64_t features,
                               bool accumulate) {
  const std::int64_t fours = (features + 3) / 4;
  const float scale = rounded<T>(mask.scale);
  const uint2 key{mask.seed, *mask.step};
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < tokens * fours;
       i += stride) {
    const std::int64_t token = i / fours;
    const auto four = static_cast<std::uint32_t>(i % fours);
    const std::int32_t row = mask.rows[token];
    float factors[4] = {1.0F, 1.0F, 1.0F, 1.0F};
    if (row >= 0) {
      const auto position = static_cast<std::uint32_t>(mask.positions[token]);
      const uint4 bits = philox({four, position, static_cast<std::uint32_t>(row), mask.linear}, key);
      factors[0] = bits.x >= mask.threshold ? scale : 0.0F;
      factors[1] = bits.y >= mask.threshold ? scale : 0.0F;
      factors[2] = bits.z >= mask.threshold ? scale : 0.0F;
      factors[3] = bits.w >= mask.threshold ? scale : 0.0F;
    }
    const std::int64_t begin = token * features + four * 4;
#pragma unroll
    for (int part = 0; part < 4; part += V) {
      if (four * 4 + part >= features) break;
      const auto in = Pack<T, V>::load(x + begin + part);
      Pack<T, V> result;
      if (accumulate) result = Pack<T, V>::load(out + begin + part);
#pragma unroll
      for (int j = 0; j < V; ++j) {
        const float dropped = in[j] * factors[part + j];
        result.set(j, accumulate ? result[j] + rounded<T>(dropped) : dropped);
      }
      result.store(out + begin + part);
    }
  }
}

constexpr int kThreads = 256;

}  // namespace

template <class T>
cudaError_t dropout(const T* x, T* out, const DropoutMask& mask, std::int64_t tokens, std::int64_t features,
                    bool accumulate, cudaStream_t stream) {
  if (tokens == 0) return cudaSuccess;
  const unsigned grid = grid_for(tokens * ((features + 3) / 4), kThreads);
  if (features % 4 == 0 && aligned(x) && aligned(out)) {
    dropout_kernel<T, 4><<<grid, kThreads, 0, stream>>>(x, out, mask, tokens, features, accumulate);
  } else {
    dropout_kernel<T, 1><<<grid, kThreads, 0, stream>>>(x, out, mask, tokens, features, accumulate);
  }
  return cudaGetLastError();
}

#define INSTANTIATE(T)                                                                                        \
  template cudaError_t dropout(const T*, T*, const DropoutMask&, std::int64_t, std::int64_t, bool, cudaStream_t);
QLORA_FOR_COMPUTE_TYPES(INSTANTIATE)

}  // namespace qlora::kernels
