// What the CPU forms and the CUDA kernels of fp8 share.
#pragma once

namespace qlora {

inline constexpr float kLargestE4m3 = 448.0F;
// Rows whose largest absolute value is below are scaled as if it were this: 448 / m is finite.
inline constexpr float kSmallestScaled = 1e-30F;

}  // namespace qlora
