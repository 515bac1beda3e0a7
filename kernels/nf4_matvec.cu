#include "qlora/quant/nf4_arithmetic.h"

#include "kernels/common.cuh"
#include "kernels/nf4_matvec.h"

namespace qlora::kernels {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kRows = 4;   // of a weight, in one block: they share what is read of x
constexpr int kUnit = 16;  // weights of a lane in one row: 8 bytes of codes, a quarter of a block

__device__ __forceinline__ float block_absmax(const Nf4Matrix& m, std::int64_t block) {
  if (m.absmax != nullptr) return __ldg(m.absmax + block);
  const float scale = __ldg(m.nested_absmax + block / kNf4NestedBlock);
  return nf4_multiply(__ldg(m.nested_map + m.absmax_codes[block]), scale) + m.nested_offset;
}

// The value of the code at `i` of eight: of a byte the high half comes first.
__device__ __forceinline__ float decoded(const float* code, unsigned packed, int i) {
  return code[packed >> (8 * (i / 2) + (i % 2 == 0 ? 4 : 0)) & 15U];
}

// A block: kRows rows of a weight, all rows of x; its warps take parts of the columns in turn.
template <class T, int M>
__global__ void __launch_bounds__(kThreads) nf4_matvec_kernel(const Nf4Stack weights, const Nf4Product<T> p) {
  __shared__ float code[16];
  __shared__ float warp_sums[kWarps][kRows * M];
  constexpr std::array<float, 16> values = kNf4Code;
  if (threadIdx.x < values.size()) code[threadIdx.x] = values[threadIdx.x];
  __syncthreads();

  const std::int64_t out_row = static_cast<std::int64_t>(blockIdx.x) * kRows;
  std::int64_t row = out_row;
  int member = 0;
  while (row >= weights.of[member].rows) row -= weights.of[member++].rows;
  const Nf4Matrix& w = weights.of[member];

  float sums[kRows][M] = {};
#pragma unroll 2
  for (std::int64_t k = threadIdx.x * kUnit; k < w.columns; k += kThreads * kUnit) {
    uint2 codes[kRows];
    float absmax[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const std::int64_t at = (row + r) * w.columns + k;
      codes[r] = __ldcs(reinterpret_cast<const uint2*>(w.codes + at / 2));  // read once
      absmax[r] = block_absmax(w, at / kNf4Block);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float value[kRows][8];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int i = 0; i < 8; ++i) value[r][i] = decoded(code, half == 0 ? codes[r].x : codes[r].y, i);
      }
#pragma unroll
      for (int m = 0; m < M; ++m) {
        if (m >= p.rows) break;
        const auto x = Pack<T, 8>::load(p.x + m * p.x_stride + k + 8 * half);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          float sum = 0.0F;
#pragma unroll
          for (int i = 0; i < 8; ++i) sum += value[r][i] * x[i];
          sums[r][m] += absmax[r] * sum;
        }
      }
    }
  }

  const int warp = static_cast<int>(threadIdx.x) / 32;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int m = 0; m < M; ++m) {
      const float sum = warp_sum(sums[r][m]);
      if (threadIdx.x % 32 == 0) warp_sums[warp][r * M + m] = sum;
    }
  }
  __syncthreads();
  if (threadIdx.x >= kRows * M) return;
  const int m = static_cast<int>(threadIdx.x) % M;
  const std::int64_t column = out_row + threadIdx.x / M;
  if (m >= p.rows) return;
  float sum = 0.0F;
  for (int i = 0; i < kWarps; ++i) sum += warp_sums[i][threadIdx.x];
  if (p.addend != nullptr) sum += to_float(p.addend[m * p.addend_stride + column]);
  if (p.bias != nullptr) sum += to_float(p.bias[column]);
  p.y[m * p.y_stride + column] = from_float<T>(sum);
}

}  // namespace

bool nf4_matvec_serves(const Nf4Stack& weights) {
  if (weights.count < 1 || weights.count > kMostNf4Members) return false;
  for (int i = 0; i < weights.count; ++i) {
    const Nf4Matrix& m = weights.of[i];
    if (m.columns != weights.of[0].columns || m.columns % kNf4Block != 0 || m.rows % kRows != 0) return false;
    if (reinterpret_cast<std::uintptr_t>(m.codes) % sizeof(uint2) != 0) return false;
  }
  return true;
}

template <class T>
cudaError_t nf4_matvec(const Nf4Stack& weights, const Nf4Product<T>& p, cudaStream_t stream) {
  if (!nf4_matvec_serves(weights) || p.rows > kMostMatvecRows || !aligned(p.x) || p.x_stride % 8 != 0)
    return cudaErrorInvalidValue;
  std::int64_t all = 0;
  for (int i = 0; i < weights.count; ++i) all += weights.of[i].rows;
  if (p.rows == 0 || all == 0) return cudaSuccess;
  const auto grid = static_cast<unsigned>(all / kRows);
  if (p.rows == 1) {
    nf4_matvec_kernel<T, 1><<<grid, kThreads, 0, stream>>>(weights, p);
  } else if (p.rows == 2) {
    nf4_matvec_kernel<T, 2><<<grid, kThreads, 0, stream>>>(weights, p);
  } else if (p.rows <= 4) {
    nf4_matvec_kernel<T, 4><<<grid, kThreads, 0, stream>>>(weights, p);
  } else {
    nf4_matvec_kernel<T, 8><<<grid, kThreads, 0, stream>>>(weights, p);
  }
  return cudaGetLastError();
}

#define INSTANTIATE(T) template cudaError_t nf4_matvec(const Nf4Stack&, const Nf4Product<T>&, cudaStream_t);
QLORA_FOR_COMPUTE_TYPES(INSTANTIATE)

}  // namespace qlora::kernels
