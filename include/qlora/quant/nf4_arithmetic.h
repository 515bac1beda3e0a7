// NF4's numbers, and fp32 as bitsandbytes' CUDA build computes it (fast math): subnormal operands and results are zero.
// For the CPU and, where nvcc reads it, for the kernels.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>

#include "qlora/core/host_device.h"

namespace qlora {

inline constexpr std::int64_t kNf4Block = 64;
inline constexpr std::int64_t kNf4NestedBlock = 256;

// Quantiles of a standard normal, scaled to [-1, 1] (Dettmers et al. 2023, QLoRA, appendix E).
inline constexpr std::array<float, 16> kNf4Code = {
    -1.0F,        -0.69619280F, -0.52507305F, -0.39491749F, -0.28444138F, -0.18477343F, -0.091050036F, 0.0F,
    0.079580300F, 0.16093020F,  0.24611230F,  0.33791524F,  0.44070983F,  0.56261700F,  0.72295684F,   1.0F};

// Between neighbours of kNf4Code; a value on a threshold takes the lower code. In hex: four of them are one ulp away
// from the fp32 midpoint.
inline constexpr std::array<float, 15> kNf4Thresholds = {
    -0x1.b239b2p-1F, -0x1.38a4e0p-1F, -0x1.d70900p-2F, -0x1.5bd4ecp-2F, -0x1.e079d8p-3F,
    -0x1.1a7178p-3F, -0x1.74f0e2p-5F, 0x1.45f5fep-5F,  0x1.ec90c6p-4F,  0x1.a0cfc0p-3F,
    0x1.2b05a8p-2F,  0x1.8ea7f2p-2F,  0x1.00da06p-1F,  0x1.491b5ep-1F,  0x1.b913b2p-1F};

constexpr std::int64_t nf4_code_bytes(std::int64_t count) {
  return (count + 1) / 2;
}
constexpr std::int64_t nf4_blocks(std::int64_t count) {
  return (count + kNf4Block - 1) / kNf4Block;
}
constexpr std::int64_t nf4_nested_blocks(std::int64_t blocks) {
  return (blocks + kNf4NestedBlock - 1) / kNf4NestedBlock;
}

inline constexpr float kSmallestNormal = 0x1p-126F;

QLORA_HOST_DEVICE inline float nf4_flush(float value) {
  return fabsf(value) < kSmallestNormal ? copysignf(0.0F, value) : value;
}

// a * b, where |a| <= 1: then a subnormal b makes a product that is flushed, too.
QLORA_HOST_DEVICE inline float nf4_multiply(float a, float b) {
#ifdef __CUDA_ARCH__
  float product;
  asm("mul.rn.ftz.f32 %0, %1, %2;" : "=f"(product) : "f"(a), "f"(b));
  return product;
#else
  return nf4_flush(a * b);
#endif
}

// 1 / 0 is Inf, which makes NaN of every element of an all-zero block, and NaN exceeds no threshold: code 0.
// Above 2^126 the reciprocal is subnormal, hence 0, and every element takes the code of 0.
// The GPU's instruction is off by an ulp for some absmax, which changes no code of 16-bit weights.
QLORA_HOST_DEVICE inline float nf4_reciprocal(float absmax) {
#ifdef __CUDA_ARCH__
  float reciprocal;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(absmax));
  return reciprocal;
#else
  if (absmax < kSmallestNormal) return std::numeric_limits<float>::infinity();
  return absmax > 0x1p126F ? 0.0F : 1.0F / absmax;
#endif
}

}  // namespace qlora
