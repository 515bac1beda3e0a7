// A token's random draws, in registers: what kernels that drop features have in common. See nn/dropout.h.
#pragma once

#include "kernels/common.cuh"
#include "kernels/dropout.h"

namespace qlora::kernels {

// Philox4x32-7, as qlora::philox.
__device__ __forceinline__ uint4 philox(uint4 counter, uint2 key) {
#pragma unroll
  for (int round = 0; round < 7; ++round) {
    const std::uint64_t a = static_cast<std::uint64_t>(0xD2511F53U) * counter.x;
    const std::uint64_t b = static_cast<std::uint64_t>(0xCD9E8D57U) * counter.z;
    counter = {static_cast<std::uint32_t>(b >> 32U) ^ counter.y ^ key.x, static_cast<std::uint32_t>(b),
               static_cast<std::uint32_t>(a >> 32U) ^ counter.w ^ key.y, static_cast<std::uint32_t>(a)};
    key = {key.x + 0x9E3779B9U, key.y + 0xBB67AE85U};
  }
  return counter;
}

// What keys a token's draws beside the feature.
struct TokenPlace {
  std::int32_t row;  // negative: of no row, nothing is dropped
  std::uint32_t position;
};

__device__ __forceinline__ TokenPlace place_of(const DropoutMask& mask, std::int64_t token) {
  return {mask.rows[token], static_cast<std::uint32_t>(mask.positions[token])};
}

// Which of the features eight * 8 .. eight * 8 + 7 are kept: a half word of ones or zeros each, in their order. One
// draw's 128 bits are eight numbers of 16 bits.
__device__ __forceinline__ uint4 kept_of_eight(const DropoutMask& mask, std::uint32_t step, TokenPlace place,
                                               std::uint32_t eight) {
  const uint4 bits =
      philox({eight, place.position, static_cast<std::uint32_t>(place.row), mask.linear}, {mask.seed, step});
  const std::uint32_t threshold = place.row < 0 ? 0U : mask.threshold * 0x10001U;
  return {__vcmpgeu2(bits.x, threshold), __vcmpgeu2(bits.y, threshold), __vcmpgeu2(bits.z, threshold),
          __vcmpgeu2(bits.w, threshold)};
}

}  // namespace qlora::kernels
