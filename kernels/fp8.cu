#include <cuda_fp8.h>

#include "qlora/quant/e4m3.h"

#include "kernels/common.cuh"
#include "kernels/fp8.h"
#include "kernels/nf4_block.cuh"

namespace qlora::kernels {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ unsigned two_codes(float low, float high) {
  return __nv_cvt_float2_to_fp8x2(make_float2(low, high), __NV_SATFINITE, __NV_E4M3);
}

__device__ __forceinline__ unsigned four_codes(float a, float b, float c, float d) {
  return two_codes(a, b) | two_codes(c, d) << 16;
}

// A block a row. The second read of the row comes from the cache.
template <class T>
__global__ void __launch_bounds__(kThreads)
    fp8_quantize_rows_kernel(const T* __restrict__ x, std::int64_t columns, const float* __restrict__ factor,
                             std::uint8_t* codes, float* scales) {
  constexpr int V = 8;
  __shared__ float shared[32];
  const std::int64_t begin = blockIdx.x * columns;
  float largest = 0.0F;
  for (std::int64_t c = threadIdx.x * V; c < columns; c += kThreads * V) {
    const auto pack = Pack<T, V>::load(x + begin + c);
#pragma unroll
    for (int i = 0; i < V; ++i) largest = fmaxf(largest, fabsf(pack[i]));
  }
  largest = fmaxf(block_max(largest, shared), kSmallestScaled);
  const float inverse = __fdiv_rn(kLargestE4m3, largest);
  if (threadIdx.x == 0) scales[blockIdx.x] = __fdiv_rn(largest, kLargestE4m3) * *factor;
  for (std::int64_t c = threadIdx.x * V; c < columns; c += kThreads * V) {
    const auto pack = Pack<T, V>::load(x + begin + c);
    float v[V];
#pragma unroll
    for (int i = 0; i < V; ++i) v[i] = pack[i] * inverse;
    *reinterpret_cast<uint2*>(codes + begin + c) =
        make_uint2(four_codes(v[0], v[1], v[2], v[3]), four_codes(v[4], v[5], v[6], v[7]));
  }
}

constexpr int kTileRows = 128, kTileColumns = 64;  // of a block; a thread has half a row of it: 32 values, 16 bytes
constexpr int kPerThread = kTileRows * kTileColumns / kThreads;
constexpr int kPaddedRows = kTileRows + 16;  // of a tile that is turned, in shared memory

template <bool kTransposed>
__global__ void __launch_bounds__(kThreads)
    nf4_to_fp8_kernel(const Nf4Matrix matrix, const float* __restrict__ scale, std::uint8_t* out, std::int64_t pitch) {
  __shared__ float code[16];
  __shared__ __align__(16) std::uint8_t turned[kTransposed ? kTileColumns * kPaddedRows : 16];
  load_nf4_code(code);
  const float reciprocal = scale[1];
  const int tile_row = static_cast<int>(threadIdx.x) / 2;
  const int tile_column = static_cast<int>(threadIdx.x) % 2 * kPerThread;
  const std::int64_t first_row = static_cast<std::int64_t>(blockIdx.y) * kTileRows;
  const std::int64_t first_column = static_cast<std::int64_t>(blockIdx.x) * kTileColumns;
  const std::int64_t row = first_row + tile_row;
  __syncthreads();
#pragma unroll
  for (int part = 0; part < kPerThread; part += 16) {  // 16 values lie in one block of 64
    const std::int64_t column = first_column + tile_column + part;
    if (row >= matrix.rows || column >= matrix.columns) break;
    const std::int64_t at = row * matrix.columns + column;
    const uint2 packed = __ldcs(reinterpret_cast<const uint2*>(matrix.codes + at / 2));  // read once
    const float absmax = nf4_block_absmax(matrix, at / kNf4Block);
    unsigned four[4];
#pragma unroll
    for (int f = 0; f < 4; ++f) {
      float v[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float value = nf4_code_value(code, f < 2 ? packed.x : packed.y, 4 * (f % 2) + i);
        v[i] = nf4_multiply(value, absmax) * reciprocal;
      }
      four[f] = four_codes(v[0], v[1], v[2], v[3]);
    }
    if constexpr (kTransposed) {
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        const int turned_row = tile_column + part + i;
        turned[turned_row * kPaddedRows + tile_row] = static_cast<std::uint8_t>(four[i / 4] >> (8 * (i % 4)));
      }
    } else {
      *reinterpret_cast<uint4*>(out + row * pitch + column) = make_uint4(four[0], four[1], four[2], four[3]);
    }
  }
  if constexpr (kTransposed) {
    __syncthreads();
    constexpr int kPerRow = kTileRows / 16;
    for (int piece = static_cast<int>(threadIdx.x); piece < kTileColumns * kPerRow; piece += kThreads) {
      const int r = piece / kPerRow, c = piece % kPerRow * 16;
      if (first_column + r >= matrix.columns || first_row + c >= matrix.rows) continue;
      *reinterpret_cast<uint4*>(out + (first_column + r) * pitch + first_row + c) =
          *reinterpret_cast<const uint4*>(turned + r * kPaddedRows + c);
    }
  }
}

}  // namespace

template <class T>
cudaError_t fp8_quantize_rows(const T* x, std::int64_t rows, std::int64_t columns, const float* factor,
                              std::uint8_t* codes, float* scales, cudaStream_t stream) {
  if (columns % 16 != 0 || !aligned(x)) return cudaErrorInvalidValue;
  if (rows == 0 || columns == 0) return cudaSuccess;
  fp8_quantize_rows_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(x, columns, factor, codes, scales);
  return cudaGetLastError();
}

#define INSTANTIATE(T)                                                                                              \
  template cudaError_t fp8_quantize_rows(const T*, std::int64_t, std::int64_t, const float*, std::uint8_t*, float*, \
                                         cudaStream_t);
QLORA_FOR_COMPUTE_TYPES(INSTANTIATE)
#undef INSTANTIATE

cudaError_t nf4_to_fp8(const Nf4Matrix& matrix, const float* scale, bool transposed, std::uint8_t* codes,
                       std::int64_t pitch, cudaStream_t stream) {
  if (matrix.rows % 16 != 0 || matrix.columns % 16 != 0 || pitch % 16 != 0 || !aligned(codes)) {
    return cudaErrorInvalidValue;
  }
  if (matrix.rows == 0 || matrix.columns == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>((matrix.columns + kTileColumns - 1) / kTileColumns),
                  static_cast<unsigned>((matrix.rows + kTileRows - 1) / kTileRows));
  if (transposed) {
    nf4_to_fp8_kernel<true><<<grid, kThreads, 0, stream>>>(matrix, scale, codes, pitch);
  } else {
    nf4_to_fp8_kernel<false><<<grid, kThreads, 0, stream>>>(matrix, scale, codes, pitch);
  }
  return cudaGetLastError();
}

}  // namespace qlora::kernels
