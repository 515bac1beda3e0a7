#include <algorithm>

#include "kernels/lora.h"
#include "kernels/mma.cuh"

namespace qlora::kernels {
namespace {

// A warp has 64 features of one adapter's output and walks over tokens, 16 at once.
constexpr int kWarps = 8;
constexpr int kTokens = 16;
constexpr int kFeatures = 64;
constexpr int kTilesOfWarp = 4;

// The adapter whose features a block has, and the first of them. Each adapter's last block may be a part.
struct Place {
  int output, feature;
};

template <class T>
__device__ __forceinline__ Place place_of_block(const LoraOutputs<T>& outputs) {
  int block = static_cast<int>(blockIdx.x);
  int i = 0;
  for (; i + 1 < outputs.count; ++i) {
    const int blocks = (outputs.of[i].out + kFeatures - 1) / kFeatures;
    if (block < blocks) break;
    block -= blocks;
  }
  return {i, block * kFeatures};
}

// As in lora_down_backward's d_x: lane 4 g + q gets features 8 g .. 8 g + 7 of tokens 2 q, 2 q + 1, 2 q + 8, 2 q + 9;
// of tile i of four, b's row g is feature 8 g + 2 i, its row g + 8 the next.
template <class T, int kTiles>
__global__ void __launch_bounds__(kWarps * 32)
    lora_up_kernel(const T* __restrict__ u, const LoraOutputs<T> outputs, const T* residual, T* y, std::int64_t tokens,
                   int ranks, std::int64_t columns) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4;
  const int q = lane % 4;
  const Place place = place_of_block(outputs);
  const auto output = outputs.of[place.output];  // a copy: what is read between stores keeps them apart
  const int feature = place.feature + 8 * g;
  const bool inside = feature < output.out;

  const auto words = [](const T* at, bool there) { return there ? *reinterpret_cast<const std::uint32_t*>(at) : 0U; };
  uint4 b[4][kTiles / 2];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int k = 0; k < kTiles / 2; ++k) {
      const int rank = 16 * k + 2 * q;
      const bool low = inside && rank < output.rank;
      const bool high = inside && rank + 8 < output.rank;
      const T* at = output.b + static_cast<std::int64_t>(feature + 2 * i) * output.rank + rank;
      b[i][k] = {words(at, low), words(at + output.rank, low), words(at + 8, high), words(at + output.rank + 8, high)};
    }
  }

  const std::int64_t first = (static_cast<std::int64_t>(blockIdx.y) * kTilesOfWarp * kWarps + warp) * kTokens;
#pragma unroll 1
  for (int n = 0; n < kTilesOfWarp; ++n) {
    const std::int64_t token = first + n * kWarps * kTokens;
    std::uint32_t low_rank[kTiles][2];
#pragma unroll
    for (int t = 0; t < kTiles * 2; ++t) {
      const std::int64_t row = token + 8 * (t % 2) + g;
      low_rank[t / 2][t % 2] =
          words(u + row * ranks + output.column + 8 * (t / 2) + 2 * q, row < tokens && 8 * (t / 2) < output.rank);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sums[4][4] = {};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int k = 0; k < kTiles / 2; ++k)
          mma<T>(sums[i], b[i][k], {low_rank[2 * k][half], low_rank[2 * k + 1][half]});
      }
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const std::int64_t row = token + 8 * half + 2 * q + j;
        if (row >= tokens || !inside) continue;
        const std::int64_t at = row * columns + output.begin + feature;
        Pack<T, 8> added{};
        if (residual != nullptr) added = Pack<T, 8>::load(residual + at);
        Pack<T, 8> result;
#pragma unroll
        for (int f = 0; f < 8; ++f) result.set(f, added[f] + sums[f / 2][2 * (f % 2) + j] * output.scale);
        result.store(y + at);
      }
    }
  }
}

}  // namespace

template <class T>
cudaError_t lora_up(const T* u, const LoraOutputs<T>& outputs, const T* residual, T* y, std::int64_t tokens,
                    std::int64_t ranks, std::int64_t columns, cudaStream_t stream) {
  if (tokens == 0 || outputs.count == 0) return cudaSuccess;
  int most = 0;
  int blocks = 0;
  for (int i = 0; i < outputs.count; ++i) {
    most = std::max(most, outputs.of[i].rank);
    blocks += (outputs.of[i].out + kFeatures - 1) / kFeatures;
  }
  constexpr std::int64_t kTokensOfBlock = kTokens * kWarps * kTilesOfWarp;
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>((tokens + kTokensOfBlock - 1) / kTokensOfBlock));
  const auto kernel = most <= 16 ? lora_up_kernel<T, 2> : most <= 32 ? lora_up_kernel<T, 4> : lora_up_kernel<T, 8>;
  kernel<<<grid, kWarps * 32, 0, stream>>>(u, outputs, residual, y, tokens, static_cast<int>(ranks), columns);
  return cudaGetLastError();
}

#define INSTANTIATE(T)                                                                                    \
  template cudaError_t lora_up(const T*, const LoraOutputs<T>&, const T*, T*, std::int64_t, std::int64_t, \
                               std::int64_t, cudaStream_t);
INSTANTIATE(__half)
INSTANTIATE(__nv_bfloat16)

}  // namespace qlora::kernels
