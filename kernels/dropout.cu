#include "kernels/dropout_mask.cuh"

namespace qlora::kernels {
namespace {

// Block (token, part of the features); a thread eight features in packs of V.
template <class T, int V>
__global__ void dropout_kernel(const T* x, T* out, DropoutMask mask, std::uint32_t features, bool accumulate) {
  const std::uint32_t eight = blockIdx.y * blockDim.x + threadIdx.x;
  const std::uint32_t begin = eight * 8;
  if (begin >= features) return;
  const TokenPlace place = place_of(mask, blockIdx.x);
  const float scale = place.row < 0 ? 1.0F : rounded<T>(mask.scale);
  const uint4 kept = kept_of_eight(mask, *mask.step, place, eight);
  const std::uint32_t words[4] = {kept.x, kept.y, kept.z, kept.w};
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * features + begin;
#pragma unroll
  for (std::uint32_t part = 0; part < 8; part += V) {
    if (begin + part >= features) return;
    const auto in = Pack<T, V>::load(x + at + part);
    Pack<T, V> result;
    if (accumulate) result = Pack<T, V>::load(out + at + part);
#pragma unroll
    for (std::uint32_t j = 0; j < V; ++j) {
      const bool keeps = (words[(part + j) / 2] >> (16 * ((part + j) % 2)) & 1U) != 0;
      const float dropped = __fmul_rn(in[j], keeps ? scale : 0.0F);  // rounded before it is added
      result.set(j, accumulate ? result[j] + rounded<T>(dropped) : dropped);
    }
    result.store(out + at + part);
  }
}

constexpr int kThreads = 128;

template <class T, int V>
void launch(const T* x, T* out, const DropoutMask& mask, std::int64_t tokens, std::int64_t features, bool accumulate,
            cudaStream_t stream) {
  constexpr std::int64_t kPerBlock = kThreads * 8;
  const dim3 grid(static_cast<unsigned>(tokens), static_cast<unsigned>((features + kPerBlock - 1) / kPerBlock));
  dropout_kernel<T, V><<<grid, kThreads, 0, stream>>>(x, out, mask, static_cast<std::uint32_t>(features), accumulate);
}

}  // namespace

template <class T>
cudaError_t dropout(const T* x, T* out, const DropoutMask& mask, std::int64_t tokens, std::int64_t features,
                    bool accumulate, cudaStream_t stream) {
  if (tokens == 0) return cudaSuccess;
  if (features % 8 == 0 && aligned(x) && aligned(out)) {
    launch<T, kPack<T>>(x, out, mask, tokens, features, accumulate, stream);
  } else {
    launch<T, 1>(x, out, mask, tokens, features, accumulate, stream);
  }
  return cudaGetLastError();
}

#define INSTANTIATE(T) \
  template cudaError_t dropout(const T*, T*, const DropoutMask&, std::int64_t, std::int64_t, bool, cudaStream_t);
QLORA_FOR_COMPUTE_TYPES(INSTANTIATE)

}  // namespace qlora::kernels
