// fp32 as bitsandbytes' CUDA build computes it (fast math): subnormal operands and results are zero.
#pragma once

#include <cmath>
#include <limits>

namespace qlora {

inline constexpr float kSmallestNormal = 0x1p-126F;

inline float nf4_flush(float value) {
  return std::fabs(value) < kSmallestNormal ? std::copysign(0.0F, value) : value;
}

// 1 / 0 is Inf, which makes NaN of every element of an all-zero block, and NaN exceeds no threshold: code 0.
// Above 2^126 the reciprocal is subnormal, hence 0, and every element takes the code of 0.
inline float nf4_reciprocal(float absmax) {
  if (absmax < kSmallestNormal) return std::numeric_limits<float>::infinity();
  return absmax > 0x1p126F ? 0.0F : 1.0F / absmax;
}

}  // namespace qlora
