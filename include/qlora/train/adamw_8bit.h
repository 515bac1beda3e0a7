// bitsandbytes' blockwise 8-bit AdamW (Dettmers et al. 2022, 8-bit Optimizers via Block-wise Quantization): both
// moments in dynamic 8-bit codes, one scale for every 256 values. Blocks begin anew with each tensor. Step t:
//   m = map[c1] * absmax1;  v = umap[c2] * absmax2        (signed and unsigned dynamic maps)
//   v = b2 v + (1 - b2) g^2;  m = b1 m + (1 - b1) g
//   p -= lr * sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + sqrt(1 - b2^t) * eps);  p *= 1 - lr * decay
//   absmax1 = max |m|, absmax2 = max v of the block;  c1 = code(m / absmax1);  c2 = code(v / absmax2)
// For the CPU and, where nvcc reads it, for the kernel: both round after every operation, and so agree to the bit.
#pragma once

#include <cmath>
#include <cstdint>

#include "qlora/core/host_device.h"
#include "qlora/quant/dynamic_map.h"
#include "qlora/train/adamw_layout.h"

namespace qlora {

struct Moments {
  float first, second;
};

QLORA_HOST_DEVICE inline Moments next_moments(Moments old, float gradient, const AdamWScalars& s) {
  return {old.first * s.beta1 + s.rest1 * gradient, old.second * s.beta2 + s.rest2 * gradient * gradient};
}

// bitsandbytes subtracts the betas from 1 in fp32, where 1 - 0.999 loses three digits.
inline AdamWScalars as_bitsandbytes(AdamWScalars s) {
  s.rest1 = 1.0F - s.beta1;
  s.rest2 = 1.0F - s.beta2;
  return s;
}

QLORA_HOST_DEVICE inline float adamw_8bit_update(float value, Moments m, const AdamWScalars& s, float learning_rate,
                                                 float decay) {
  const float rate = -learning_rate * s.correction2 / s.correction1;
  const float moved = value + rate * (m.first / (sqrtf(m.second) + s.correction2 * s.epsilon));
  return decay > 0.0F ? moved * (1.0F - learning_rate * decay) : moved;
}

// The code of a first moment; its sign survives: a code of the other sign moves to the next one. 0 / 0 in a block of
// zeros is NaN, whose code means 0 like any other there.
QLORA_HOST_DEVICE inline std::uint8_t first_moment_code(float first, float absmax, const float* map) {
  const std::uint8_t code = dynamic_code(first / absmax, map);
  if (std::signbit(map[code]) == std::signbit(first)) return code;
  return static_cast<std::uint8_t>(first > 0.0F ? code + 1 : code - 1);
}

// The CPU's form. One tensor of `count` values: values, gradients [count]; codes [count]; absmax [ceil(count / 256)].
// A block that no step has touched has codes 0 and absmax 0. Runs on all cores; the result does not depend on them.
struct AdamW8bitTensor {
  std::int64_t count = 0;
  float* values = nullptr;
  const float* gradients = nullptr;
  std::uint8_t* first = nullptr;
  std::uint8_t* second = nullptr;
  float* first_absmax = nullptr;
  float* second_absmax = nullptr;
};
void adamw_8bit_step(const AdamW8bitTensor& tensor, const AdamWScalars& scalars, float learning_rate, float decay);

}  // namespace qlora
