#include "kernels/common.cuh"
#include "kernels/mma.cuh"
#include "kernels/nf4_block.cuh"
#include "kernels/nf4_matvec.h"

namespace qlora::kernels {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kRows = 4;   // of a weight, in one block: they share what is read of x
constexpr int kUnit = 16;  // weights of a lane in one row: 8 bytes of codes, a quarter of a block

template <class T>
__device__ __forceinline__ void finish(const Nf4Product<T>& p, int m, std::int64_t column, float sum) {
  if (p.addend != nullptr) sum += to_float(p.addend[m * p.addend_stride + column]);
  if (p.bias != nullptr) sum += to_float(p.bias[column]);
  p.y[m * p.y_stride + column] = from_float<T>(sum);
}

// --- in float32 ------------------------------------------------------------------------------------------------------

// A block: kRows rows of a weight, all rows of x; its warps take parts of the columns in turn.
template <class T, int M>
__global__ void __launch_bounds__(kThreads) nf4_matvec_kernel(const Nf4Stack weights, const Nf4Product<T> p) {
  __shared__ float code[16];
  __shared__ float warp_sums[kWarps][kRows * M];
  load_nf4_code(code);
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
      absmax[r] = nf4_block_absmax(w, at / kNf4Block);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float value[kRows][8];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int i = 0; i < 8; ++i) value[r][i] = nf4_code_value(code, half == 0 ? codes[r].x : codes[r].y, i);
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
  finish(p, m, column, sum);
}

// --- on tensor cores -------------------------------------------------------------------------------------------------
// A byte of codes is a pair of neighbouring 16-bit weights, looked up at once, and so a word of a fragment: nothing is
// left to do for a weight. Sums of a block are scaled by its absmax afterwards. Any order of columns serves, if x has
// the same: lane 4 g + q takes columns 16 q .. 16 q + 15 of each block, for rows g and g + 8.

constexpr int kMmaThreads = 256;
constexpr int kMmaWarps = kMmaThreads / 32;
constexpr int kMmaRows = 16;          // of a weight
constexpr int kMmaBlocks = 4;         // of a row, whose loads are in flight together
constexpr std::int64_t kMmaFrom = 2;  // rows of x: one alone is as fast without

// What a byte decodes to, once for each bank of shared memory: no two lanes collide.
using PairTable = std::uint32_t[256 * 32];

template <class T>
__device__ __forceinline__ void fill(PairTable& pairs) {
  constexpr std::array<float, 16> values = kNf4Code;
  for (unsigned i = threadIdx.x; i < 256 * 8; i += kMmaThreads) {
    Pack<T, 2> pair;  // the high half comes first
    pair.set(0, values[i / 8 / 16]);
    pair.set(1, values[i / 8 % 16]);
    const auto word = *reinterpret_cast<const std::uint32_t*>(&pair);
    *reinterpret_cast<uint4*>(pairs + i * 4) = make_uint4(word, word, word, word);
  }
}

// The pair of byte `i`; `bank`: 4 bytes times the lane.
__device__ __forceinline__ std::uint32_t pair_of(const PairTable& pairs, std::uint32_t codes, int i, unsigned bank) {
  const std::uint32_t shifted = i == 0 ? codes << 7 : codes >> (8 * i - 7);
  return *reinterpret_cast<const std::uint32_t*>(reinterpret_cast<const char*>(pairs) + ((shifted & 0x7f80U) | bank));
}

template <class T>
__global__ void __launch_bounds__(kMmaThreads) nf4_mma_kernel(const Nf4Stack weights, const Nf4Product<T> p) {
  __shared__ alignas(16) PairTable pairs;
  __shared__ float warp_sums[kMmaWarps][kMmaRows * 8];
  fill<T>(pairs);
  __syncthreads();
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4;
  const int q = lane % 4;
  const unsigned bank = 4U * static_cast<unsigned>(lane);

  const std::int64_t out_row = static_cast<std::int64_t>(blockIdx.x) * kMmaRows;
  std::int64_t row = out_row;
  int member = 0;
  while (row >= weights.of[member].rows) row -= weights.of[member++].rows;
  const Nf4Matrix& w = weights.of[member];
  const int blocks = static_cast<int>(w.columns / kNf4Block);
  const std::int64_t first[2] = {(row + g) * blocks, (row + g + 8) * blocks};  // blocks of the lane's rows

  float sums[4] = {};
  for (int part = warp * kMmaBlocks; part < blocks; part += kMmaWarps * kMmaBlocks) {
    uint2 codes[2][kMmaBlocks];
    float absmax[2];  // of block q of the part
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
      for (int b = 0; b < kMmaBlocks; ++b) {
        const auto* from = reinterpret_cast<const uint2*>(w.codes) + (first[r] + part + b) * 4 + q;
        codes[r][b] = part + b < blocks ? __ldcs(from) : make_uint2(0, 0);  // read once
      }
      absmax[r] = part + q < blocks ? nf4_block_absmax(w, first[r] + part + q) : 0.0F;
    }
#pragma unroll
    for (int b = 0; b < kMmaBlocks; ++b) {
      uint4 x[2] = {make_uint4(0, 0, 0, 0), make_uint4(0, 0, 0, 0)};
      if (g < p.rows && part + b < blocks) {
        const auto* from = reinterpret_cast<const uint4*>(p.x + g * p.x_stride + (part + b) * kNf4Block + q * kUnit);
        x[0] = from[0];
        x[1] = from[1];
      }
      float sum[4] = {};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const std::uint32_t upper = half == 0 ? codes[0][b].x : codes[0][b].y;
        const std::uint32_t lower = half == 0 ? codes[1][b].x : codes[1][b].y;
        mma<T>(sum,
               make_uint4(pair_of(pairs, upper, 0, bank), pair_of(pairs, lower, 0, bank),
                          pair_of(pairs, upper, 1, bank), pair_of(pairs, lower, 1, bank)),
               make_uint2(x[half].x, x[half].y));
        mma<T>(sum,
               make_uint4(pair_of(pairs, upper, 2, bank), pair_of(pairs, lower, 2, bank),
                          pair_of(pairs, upper, 3, bank), pair_of(pairs, lower, 3, bank)),
               make_uint2(x[half].z, x[half].w));
      }
      const float scale[2] = {__shfl_sync(0xffffffffU, absmax[0], 4 * g + b),
                              __shfl_sync(0xffffffffU, absmax[1], 4 * g + b)};
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[i] += scale[i / 2] * sum[i];
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) warp_sums[warp][(g + i / 2 * 8) * 8 + 2 * q + i % 2] = sums[i];
  __syncthreads();
  const int m = static_cast<int>(threadIdx.x) % 8;
  if (threadIdx.x < kMmaRows * 8 && m < p.rows) {
    float sum = 0.0F;
    for (int i = 0; i < kMmaWarps; ++i) sum += warp_sums[i][threadIdx.x];
    finish(p, m, out_row + threadIdx.x / 8, sum);
  }
}

bool has_mma() {
  int device = 0;
  int major = 0;
  return cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess && major >= 8;
}

// Whether tiles of that many rows fit each member.
bool tiles_fit(const Nf4Stack& weights) {
  for (int i = 0; i < weights.count; ++i) {
    if (weights.of[i].rows % kMmaRows != 0) return false;
  }
  return true;
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
  if constexpr (sizeof(T) == 2) {
    if (p.rows >= kMmaFrom && has_mma() && tiles_fit(weights)) {
      nf4_mma_kernel<T><<<static_cast<unsigned>(all / kMmaRows), kMmaThreads, 0, stream>>>(weights, p);
      return cudaGetLastError();
    }
  }
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
