#include "kernels/common.cuh"
#include "kernels/dropout.h"

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

// The factors of features four * 4 .. four * 4 + 3: those of one random draw.
__device__ __forceinline__ void draw(const DropoutMask& mask, uint2 key, std::uint32_t row, std::uint32_t position,
                                     std::uint32_t four, float scale, float* factors) {
  const uint4 bits = philox({four, position, row, mask.linear}, key);
  factors[0] = bits.x >= mask.threshold ? scale : 0.0F;
  factors[1] = bits.y >= mask.threshold ? scale : 0.0F;
  factors[2] = bits.z >= mask.threshold ? scale : 0.0F;
  factors[3] = bits.w >= mask.threshold ? scale : 0.0F;
}

// Block (token, part of the features); a thread kDraws * 4 features in packs of V.
template <class T, int V, int kDraws>
__global__ void dropout_kernel(const T* x, T* out, DropoutMask mask, std::uint32_t features, bool accumulate) {
  constexpr std::uint32_t kFeatures = 4 * kDraws;
  const std::uint32_t begin = (blockIdx.y * blockDim.x + threadIdx.x) * kFeatures;
  if (begin >= features) return;
  const std::int32_t row = mask.rows[blockIdx.x];
  float factors[kFeatures];
  if (row < 0) {
#pragma unroll
    for (std::uint32_t i = 0; i < kFeatures; ++i) factors[i] = 1.0F;
  } else {
    const auto position = static_cast<std::uint32_t>(mask.positions[blockIdx.x]);
#pragma unroll
    for (std::uint32_t d = 0; d < kDraws; ++d) {
      draw(mask, {mask.seed, *mask.step}, static_cast<std::uint32_t>(row), position, begin / 4 + d,
           rounded<T>(mask.scale), factors + 4 * d);
    }
  }
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * features + begin;
#pragma unroll
  for (std::uint32_t part = 0; part < kFeatures; part += V) {
    if (begin + part >= features) return;
    const auto in = Pack<T, V>::load(x + at + part);
    Pack<T, V> result;
    if (accumulate) result = Pack<T, V>::load(out + at + part);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const float dropped = __fmul_rn(in[j], factors[part + j]);  // rounded before it is added
      result.set(j, accumulate ? result[j] + rounded<T>(dropped) : dropped);
    }
    result.store(out + at + part);
  }
}

constexpr int kThreads = 128;

template <class T, int V, int kDraws>
void launch(const T* x, T* out, const DropoutMask& mask, std::int64_t tokens, std::int64_t features, bool accumulate,
            cudaStream_t stream) {
  constexpr std::int64_t kPerBlock = kThreads * kDraws * 4;
  const dim3 grid(static_cast<unsigned>(tokens), static_cast<unsigned>((features + kPerBlock - 1) / kPerBlock));
  dropout_kernel<T, V, kDraws>
      <<<grid, kThreads, 0, stream>>>(x, out, mask, static_cast<std::uint32_t>(features), accumulate);
}

}  // namespace

template <class T>
cudaError_t dropout(const T* x, T* out, const DropoutMask& mask, std::int64_t tokens, std::int64_t features,
                    bool accumulate, cudaStream_t stream) {
  if (tokens == 0) return cudaSuccess;
  if (features % 8 == 0 && aligned(x) && aligned(out)) {
    launch<T, kPack<T>, 2>(x, out, mask, tokens, features, accumulate, stream);
  } else {
    launch<T, 1, 1>(x, out, mask, tokens, features, accumulate, stream);
  }
  return cudaGetLastError();
}

#define INSTANTIATE(T) \
  template cudaError_t dropout(const T*, T*, const DropoutMask&, std::int64_t, std::int64_t, bool, cudaStream_t);
QLORA_FOR_COMPUTE_TYPES(INSTANTIATE)

}  // namespace qlora::kernels
