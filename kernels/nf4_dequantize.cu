#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/nf4_block.cuh"

namespace qlora::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kUnit = 8;   // values that are decoded at once: 4 bytes of codes, 16 bytes of 16-bit weights
constexpr int kUnits = 2;  // of a thread; their loads are in flight together
constexpr int kUnitsPerBlock = kNf4Block / kUnit;
// Results larger than this do not stay in the L2 cache anyway: they are written past it, which is 5 % faster.
constexpr std::int64_t kStreamedBytes = 32 << 20;

__device__ void store16(const void* from, void* to, bool streamed) {
  const uint4 bytes = *static_cast<const uint4*>(from);
  if (streamed) {
    __stcs(static_cast<uint4*>(to), bytes);
  } else {
    *static_cast<uint4*>(to) = bytes;
  }
}

__device__ void store(const float (&v)[kUnit], float* out, bool streamed) {
  alignas(16) float4 fours[2] = {make_float4(v[0], v[1], v[2], v[3]), make_float4(v[4], v[5], v[6], v[7])};
  store16(fours, out, streamed);
  store16(fours + 1, out + 4, streamed);
}

__device__ void store(const float (&v)[kUnit], __half* out, bool streamed) {
  alignas(16) __half2 pairs[kUnit / 2];
  for (int i = 0; i < kUnit / 2; ++i) pairs[i] = __floats2half2_rn(v[2 * i], v[2 * i + 1]);
  store16(pairs, out, streamed);
}

__device__ void store(const float (&v)[kUnit], __nv_bfloat16* out, bool streamed) {
  alignas(16) __nv_bfloat162 pairs[kUnit / 2];
  for (int i = 0; i < kUnit / 2; ++i) pairs[i] = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
  store16(pairs, out, streamed);
}

__device__ void store_one(float value, float* out) {
  *out = value;
}
__device__ void store_one(float value, __half* out) {
  *out = __float2half_rn(value);
}
__device__ void store_one(float value, __nv_bfloat16* out) {
  *out = __float2bfloat16_rn(value);
}

// Whole units. Lanes that are neighbours hold units that are neighbours: loads and stores are contiguous in a warp.
// kPitched: `row_units` units make a row, and rows begin `pitch` values apart; else there is one row.
template <typename T, bool kPitched>
__global__ void __launch_bounds__(kThreads)
    nf4_dequantize_kernel(const Nf4Matrix matrix, std::int64_t units, unsigned row_units, std::int64_t pitch,
                          bool streamed, T* out) {
  __shared__ float code[16];
  load_nf4_code(code);
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * (kThreads * kUnits) + threadIdx.x;
  unsigned packed[kUnits];
  float absmax[kUnits];
#pragma unroll
  for (int u = 0; u < kUnits; ++u) {
    const std::int64_t unit = first + u * kThreads;
    if (unit >= units) break;
    packed[u] = __ldcs(reinterpret_cast<const unsigned*>(matrix.codes) + unit);  // read once
    absmax[u] = nf4_block_absmax(matrix, unit / kUnitsPerBlock);
  }
  __syncthreads();
#pragma unroll
  for (int u = 0; u < kUnits; ++u) {
    const std::int64_t unit = first + u * kThreads;
    if (unit >= units) break;
    float value[kUnit];
#pragma unroll
    for (int i = 0; i < kUnit; ++i) value[i] = nf4_multiply(nf4_code_value(code, packed[u], i), absmax[u]);
    std::int64_t at = unit * kUnit;
    if constexpr (kPitched) {
      const unsigned row = static_cast<unsigned>(unit) / row_units;
      at = row * pitch + static_cast<std::int64_t>(static_cast<unsigned>(unit) - row * row_units) * kUnit;
    }
    store(value, out + at, streamed);
  }
}

// Elements [begin, end), whatever their alignment.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    nf4_dequantize_elements_kernel(const Nf4Matrix matrix, std::int64_t begin, std::int64_t end, std::int64_t pitch,
                                   T* out) {
  __shared__ float code[16];
  load_nf4_code(code);
  __syncthreads();
  const std::int64_t i = begin + static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= end) return;
  const unsigned q = matrix.codes[i / 2] >> (i % 2 == 0 ? 4 : 0) & 15U;
  const std::int64_t row = i / matrix.columns;
  store_one(nf4_multiply(code[q], nf4_block_absmax(matrix, i / kNf4Block)),
            out + row * pitch + (i - row * matrix.columns));
}

std::int64_t ceil_divide(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

template <typename T>
cudaError_t launch(const Nf4Matrix& matrix, T* out, std::int64_t pitch, cudaStream_t stream) {
  const std::int64_t count = matrix.rows * matrix.columns;
  const bool aligned = reinterpret_cast<std::uintptr_t>(out) % 16 == 0;
  const bool whole = pitch == matrix.columns;
  const bool even_rows = matrix.columns % kUnit == 0 && pitch % kUnit == 0 && count / kUnit <= 0xffffffffLL;
  const bool streamed = count * static_cast<std::int64_t>(sizeof(T)) > kStreamedBytes;
  const std::int64_t units = aligned && (whole || even_rows) ? count / kUnit : 0;
  if (units > 0) {
    const auto grid = static_cast<unsigned>(ceil_divide(units, kThreads * kUnits));
    if (whole) {
      nf4_dequantize_kernel<T, false><<<grid, kThreads, 0, stream>>>(matrix, units, 0, 0, streamed, out);
    } else {
      const auto row_units = static_cast<unsigned>(matrix.columns / kUnit);
      nf4_dequantize_kernel<T, true><<<grid, kThreads, 0, stream>>>(matrix, units, row_units, pitch, streamed, out);
    }
  }
  if (units * kUnit < count) {
    const auto grid = static_cast<unsigned>(ceil_divide(count - units * kUnit, kThreads));
    nf4_dequantize_elements_kernel<<<grid, kThreads, 0, stream>>>(matrix, units * kUnit, count, pitch, out);
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t nf4_dequantize(const Nf4Matrix& matrix, FloatType type, void* out, std::int64_t pitch,
                           cudaStream_t stream) {
  if (pitch < matrix.columns) return cudaErrorInvalidValue;
  if (matrix.rows == 0 || matrix.columns == 0) return cudaSuccess;
  switch (type) {
    case FloatType::kFloat32:
      return launch(matrix, static_cast<float*>(out), pitch, stream);
    case FloatType::kFloat16:
      return launch(matrix, static_cast<__half*>(out), pitch, stream);
    case FloatType::kBFloat16:
      return launch(matrix, static_cast<__nv_bfloat16*>(out), pitch, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace qlora::kernels
