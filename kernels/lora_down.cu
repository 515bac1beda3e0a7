#include <algorithm>

#include "kernels/dropout_mask.cuh"
#include "kernels/lora.h"
#include "kernels/mma.cuh"

namespace qlora::kernels {
namespace {

// A block takes kTokens tokens; its warps share the features among them and add up at the end.
constexpr int kWarps = 16;
constexpr int kRowTiles = 2;
constexpr int kTokens = 16 * kRowTiles;
constexpr int kFeatures = 32;  // that a warp takes at once: 8 a lane

__device__ __forceinline__ uint4 load16(const void* from, bool there) {
  return there ? *static_cast<const uint4*>(from) : uint4{0, 0, 0, 0};
}

__device__ __forceinline__ uint4 operator&(uint4 a, uint4 b) {
  return {a.x & b.x, a.y & b.y, a.z & b.z, a.w & b.w};
}

// Which adapters, and which of their ranks, a block computes: kAdapters from the first, all ranks; or, one a block,
// 8 * kTiles ranks of one.
struct Part {
  int adapter, first_rank;
};

// Adds the other warps' sums to those of warp 0, always in the same order. shared [kWarps / 2][kSums * 4][32].
template <int kSums>
__device__ __forceinline__ void add_warps(float (&sums)[kSums][4], float* shared, int warp, int lane) {
  for (int half = kWarps / 2; half > 0; half /= 2) {
    float* place = shared + (warp % half) * kSums * 4 * 32 + lane;
    if (warp >= half && warp < 2 * half) {
#pragma unroll
      for (int i = 0; i < kSums * 4; ++i) place[i * 32] = sums[i / 4][i % 4];
    }
    __syncthreads();
    if (warp < half) {
#pragma unroll
      for (int i = 0; i < kSums * 4; ++i) sums[i / 4][i % 4] += place[i * 32];
    }
    __syncthreads();
  }
}

// A product's sum does not depend on which feature is called which, as long as both factors agree: lane 4 g + q takes
// features 8 q .. 8 q + 7 of rows g and g + 8 of x, and of row g of a. So both come in 16 bytes a load, and a mask's
// draw for eight features is one lane's.
template <class T, int kAdapters, int kTiles>
__global__ void __launch_bounds__(kWarps * 32, 1)
    lora_down_kernel(const T* __restrict__ x, std::int64_t x_pitch, const LoraAdapters<T> adapters, int slices,
                     T* __restrict__ u, std::int64_t tokens, int in, int ranks) {
  extern __shared__ float shared[];
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4;
  const int q = lane % 4;
  const Part part{static_cast<int>(blockIdx.y) / slices, static_cast<int>(blockIdx.y) % slices * 8 * kTiles};
  const std::int64_t first_token = static_cast<std::int64_t>(blockIdx.x) * kTokens + g;

  bool any_drops = false;
#pragma unroll
  for (int a = 0; a < kAdapters; ++a) any_drops = any_drops || adapters.of[part.adapter + a].mask.threshold != 0;
  TokenPlace places[2 * kRowTiles];
  std::uint32_t step = 0;
#pragma unroll
  for (int r = 0; r < 2 * kRowTiles; ++r) places[r] = {-1, 0};
  if (any_drops) {
    const DropoutMask& mask = adapters.of[part.adapter].mask;  // what places tokens is the same for all
    step = *mask.step;
#pragma unroll
    for (int r = 0; r < 2 * kRowTiles; ++r) {
      if (first_token + 8 * r < tokens) places[r] = place_of(mask, first_token + 8 * r);
    }
  }

  float sums[kAdapters * kRowTiles * kTiles][4] = {};
  for (int first = warp * kFeatures; first < in; first += kWarps * kFeatures) {
    const int feature = first + 8 * q;
    uint4 rows[2 * kRowTiles];
#pragma unroll
    for (int r = 0; r < 2 * kRowTiles; ++r) {
      const std::int64_t token = first_token + 8 * r;
      rows[r] = load16(x + token * x_pitch + feature, feature < in && token < tokens);
    }
    uint4 weights[kAdapters * kTiles];
#pragma unroll
    for (int w = 0; w < kAdapters * kTiles; ++w) {
      const auto& adapter = adapters.of[part.adapter + w / kTiles];
      const int rank = part.first_rank + w % kTiles * 8 + g;
      weights[w] =
          load16(adapter.a + static_cast<std::int64_t>(rank) * in + feature, feature < in && rank < adapter.rank);
    }
#pragma unroll
    for (int a = 0; a < kAdapters; ++a) {
      const DropoutMask& mask = adapters.of[part.adapter + a].mask;
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        uint4 top = rows[2 * m];
        uint4 bottom = rows[2 * m + 1];
        if (mask.threshold != 0) {
          const auto eight = static_cast<std::uint32_t>(feature) / 8;
          top = top & kept_of_eight(mask, step, places[2 * m], eight);
          bottom = bottom & kept_of_eight(mask, step, places[2 * m + 1], eight);
        }
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
          float(&sum)[4] = sums[(a * kRowTiles + m) * kTiles + t];
          const uint4 weight = weights[a * kTiles + t];
          mma<T>(sum, {top.x, bottom.x, top.y, bottom.y}, {weight.x, weight.y});
          mma<T>(sum, {top.z, bottom.z, top.w, bottom.w}, {weight.z, weight.w});
        }
      }
    }
  }

  add_warps(sums, shared, warp, lane);
  if (warp != 0) return;
#pragma unroll
  for (int i = 0; i < kAdapters * kRowTiles * kTiles * 4; ++i) {
    const int tile = i / 4 % kTiles;
    const int row = i / 4 / kTiles % kRowTiles * 2 + i % 4 / 2;
    const auto& adapter = adapters.of[part.adapter + i / 4 / kTiles / kRowTiles];
    const int rank = part.first_rank + 8 * tile + 2 * q + i % 2;
    const std::int64_t token = first_token + 8 * row;
    const float scale = adapter.mask.threshold == 0 || places[row].row < 0 ? 1.0F : adapter.mask.scale;
    if (token < tokens && rank < adapter.rank) {
      u[token * ranks + adapter.column + rank] = from_float<T>(sums[i / 4][i % 4] * scale);
    }
  }
}

template <class T, int kAdapters, int kTiles>
cudaError_t launch(const T* x, std::int64_t x_pitch, const LoraAdapters<T>& adapters, int slices, T* u,
                   std::int64_t tokens, std::int64_t in, std::int64_t ranks, cudaStream_t stream) {
  constexpr int kShared = kWarps / 2 * kAdapters * kRowTiles * kTiles * 4 * 32 * static_cast<int>(sizeof(float));
  const auto kernel = lora_down_kernel<T, kAdapters, kTiles>;
  if (kShared > 48 << 10) {
    const cudaError_t set = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
    if (set != cudaSuccess) return set;
  }
  const dim3 grid(static_cast<unsigned>((tokens + kTokens - 1) / kTokens),
                  static_cast<unsigned>(kAdapters == 1 ? adapters.count * slices : 1));
  kernel<<<grid, kWarps * 32, kShared, stream>>>(x, x_pitch, adapters, slices, u, tokens, static_cast<int>(in),
                                                 static_cast<int>(ranks));
  return cudaGetLastError();
}

}  // namespace

template <class T>
cudaError_t lora_down(const T* x, std::int64_t x_pitch, const LoraAdapters<T>& adapters, T* u, std::int64_t tokens,
                      std::int64_t in, std::int64_t ranks, cudaStream_t stream) {
  if (tokens == 0 || adapters.count == 0) return cudaSuccess;
  int most = 0;
  for (int a = 0; a < adapters.count; ++a) most = std::max(most, adapters.of[a].rank);
  const auto run = [&](const auto& launcher, int tiles) {
    return launcher(x, x_pitch, adapters, (most + 8 * tiles - 1) / (8 * tiles), u, tokens, in, ranks, stream);
  };
  if (most <= 16 && adapters.count == 3) return run(launch<T, 3, 2>, 2);
  if (most <= 16 && adapters.count == 2) return run(launch<T, 2, 2>, 2);
  if (most <= 16) return run(launch<T, 1, 2>, 2);
  if (most <= 32) return run(launch<T, 1, 4>, 4);
  return run(launch<T, 1, 8>, 8);
}

#define INSTANTIATE(T)                                                                                           \
  template cudaError_t lora_down(const T*, std::int64_t, const LoraAdapters<T>&, T*, std::int64_t, std::int64_t, \
                                 std::int64_t, cudaStream_t);
INSTANTIATE(__half)
INSTANTIATE(__nv_bfloat16)

}  // namespace qlora::kernels
