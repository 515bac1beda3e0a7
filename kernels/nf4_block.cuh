// What kernels that decode NF4 share.
#pragma once

#include "qlora/quant/nf4_arithmetic.h"

#include "kernels/nf4_dequantize.h"

namespace qlora::kernels {

// The code values in shared memory: 16 of 32 banks, so that no two lanes collide. The caller synchronises.
__device__ __forceinline__ void load_nf4_code(float* code) {
  constexpr std::array<float, 16> values = kNf4Code;
  if (threadIdx.x < values.size()) code[threadIdx.x] = values[threadIdx.x];
}

__device__ __forceinline__ float nf4_block_absmax(const Nf4Matrix& m, std::int64_t block) {
  if (m.absmax != nullptr) return __ldg(m.absmax + block);
  const float scale = __ldg(m.nested_absmax + block / kNf4NestedBlock);
  return nf4_multiply(__ldg(m.nested_map + m.absmax_codes[block]), scale) + m.nested_offset;
}

// The value of the code at `i` of eight: of a byte the high half comes first.
__device__ __forceinline__ float nf4_code_value(const float* code, unsigned packed, int i) {
  return code[packed >> (8 * (i / 2) + (i % 2 == 0 ? 4 : 0)) & 15U];
}

}  // namespace qlora::kernels
