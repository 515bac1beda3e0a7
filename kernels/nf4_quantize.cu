#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "qlora/quant/dynamic_map.h"
#include "qlora/quant/nf4_arithmetic.h"

#include "kernels/nf4_quantize.h"

namespace qlora::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kEach = 8;                     // values a thread: 16 bytes of 16-bit weights, 4 bytes of codes
constexpr int kSharers = kNf4Block / kEach;  // threads that share a block of 64
constexpr unsigned kAllLanes = 0xffffffffU;
constexpr unsigned kMagnitude = 0x7fffffffU;
constexpr unsigned kInfinity = 0x7f800000U;
constexpr unsigned kSmallestNormalBits = 0x00800000U;

// The values at `from`; zeros past `inside`.
template <typename T>
__device__ void load(const T* from, std::int64_t inside, float (&values)[kEach]) {
  if (inside >= kEach) {
    alignas(16) T raw[kEach];
    for (int i = 0; i < static_cast<int>(sizeof(raw) / sizeof(uint4)); ++i) {
      reinterpret_cast<uint4*>(raw)[i] = reinterpret_cast<const uint4*>(from)[i];
    }
    for (int i = 0; i < kEach; ++i) values[i] = static_cast<float>(raw[i]);
  } else {
    for (int i = 0; i < kEach; ++i) values[i] = i < inside ? static_cast<float>(from[i]) : 0.0F;
  }
}

__device__ unsigned nf4_code(float scaled) {
  constexpr std::array<float, 15> thresholds = kNf4Thresholds;
  unsigned code = 0;
#pragma unroll
  for (int i = 0; i < 15; ++i) code += scaled > thresholds[i] ? 1U : 0U;
  return code;
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    nf4_quantize_kernel(const T* values, std::int64_t count, std::uint8_t* codes, float* absmax,
                        unsigned long long* first_bad) {
  const std::int64_t part = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const std::int64_t begin = part * kEach;
  const std::int64_t inside = count - begin;  // above kEach for most; below 0 past the end, where shuffles need us
  float value[kEach];
  load(values + begin, inside, value);
  unsigned top = 0;
  for (int i = 0; i < kEach; ++i) {
    const unsigned magnitude = __float_as_uint(value[i]) & kMagnitude;
    if (magnitude >= kInfinity) atomicMin(first_bad, static_cast<unsigned long long>(begin + i));
    top = max(top, magnitude);
  }
  for (int lane = 1; lane < kSharers; lane *= 2) top = max(top, __shfl_xor_sync(kAllLanes, top, lane));
  if (inside <= 0) return;
  const float largest = __uint_as_float(top < kSmallestNormalBits ? 0U : top);
  if (part % kSharers == 0) absmax[part / kSharers] = largest;

  const float scale = nf4_reciprocal(largest);
  unsigned packed = 0;
  for (int i = 0; i < kEach; i += 2) {
    const unsigned byte = nf4_code(nf4_multiply(value[i], scale)) << 4 | nf4_code(nf4_multiply(value[i + 1], scale));
    packed |= byte << (4 * i);
  }
  if (inside >= kEach) {
    reinterpret_cast<unsigned*>(codes)[part] = packed;
  } else {
    for (int i = 0; i < inside; i += 2) codes[(begin + i) / 2] = static_cast<std::uint8_t>(packed >> (4 * i));
  }
}

// A thread block a nested block.
__global__ void __launch_bounds__(kNf4NestedBlock)
    nf4_nest_absmax_kernel(const float* absmax, std::int64_t blocks, float offset, const float* map,
                           std::uint8_t* absmax_codes, float* nested_absmax) {
  __shared__ float shared_map[256];
  __shared__ float warp_tops[kNf4NestedBlock / 32];
  const std::int64_t b = static_cast<std::int64_t>(blockIdx.x) * kNf4NestedBlock + threadIdx.x;
  shared_map[threadIdx.x] = map[threadIdx.x];
  const float centred = b < blocks ? nf4_flush(absmax[b] - offset) : 0.0F;
  float top = fabsf(centred);
  for (int lane = 16; lane > 0; lane /= 2) top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, lane));
  if (threadIdx.x % 32 == 0) warp_tops[threadIdx.x / 32] = top;
  __syncthreads();
  for (const float other : warp_tops) top = fmaxf(top, other);
  if (threadIdx.x == 0) nested_absmax[blockIdx.x] = top;
  if (b < blocks) absmax_codes[b] = dynamic_code(nf4_multiply(centred, nf4_reciprocal(top)), shared_map);
}

template <typename T>
cudaError_t launch(const void* values, std::int64_t count, std::uint8_t* codes, float* absmax, std::uint64_t* first_bad,
                   cudaStream_t stream) {
  constexpr std::int64_t kTile = kThreads * kEach;
  static_assert(sizeof(*first_bad) == sizeof(unsigned long long));
  nf4_quantize_kernel<<<static_cast<unsigned>((count + kTile - 1) / kTile), kThreads, 0, stream>>>(
      static_cast<const T*>(values), count, codes, absmax, reinterpret_cast<unsigned long long*>(first_bad));
  return cudaGetLastError();
}

}  // namespace

cudaError_t nf4_quantize(const void* values, FloatType type, std::int64_t count, std::uint8_t* codes, float* absmax,
                         std::uint64_t* first_bad, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  switch (type) {
    case FloatType::kFloat32:
      return launch<float>(values, count, codes, absmax, first_bad, stream);
    case FloatType::kFloat16:
      return launch<__half>(values, count, codes, absmax, first_bad, stream);
    case FloatType::kBFloat16:
      return launch<__nv_bfloat16>(values, count, codes, absmax, first_bad, stream);
  }
  return cudaErrorInvalidValue;
}

cudaError_t nf4_nest_absmax(const float* absmax, std::int64_t blocks, float offset, const float* map,
                            std::uint8_t* absmax_codes, float* nested_absmax, cudaStream_t stream) {
  if (blocks == 0) return cudaSuccess;
  nf4_nest_absmax_kernel<<<static_cast<unsigned>(nf4_nested_blocks(blocks)), kNf4NestedBlock, 0, stream>>>(
      absmax, blocks, offset, map, absmax_codes, nested_absmax);
  return cudaGetLastError();
}

}  // namespace qlora::kernels
