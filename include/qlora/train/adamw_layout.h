// How AdamW's work is cut: segments of the flat parameters, and their tiles. Plain numbers, for the CPU and the
// kernels.
#pragma once

#include <cstdint>

namespace qlora {

// 8-bit moments share a scale in blocks of this size.
inline constexpr std::int64_t kAdamWBlock = 256;
// Smaller tensors keep fp32 moments.
inline constexpr std::int64_t kSmallest8bitTensor = 4096;

// Values of a tile, which is what one thread block of a kernel updates.
inline constexpr std::int64_t kAdamWTile = 4096;             // fp32 moments
inline constexpr std::int64_t kAdamW8bitTile = kAdamWBlock;  // 8-bit moments: a block with its scale

// Neighbouring values that share their rate and decay.
struct AdamWSegment {
  std::int64_t begin, size;  // in the flat parameters
  std::int64_t state;        // where its moments begin
  std::int64_t first_tile;   // tiles are counted on from segment to segment
  float rate;                // times the learning rate
  float decay;               // weight decay
};

// What one step does to every value, beside its segment. fp32, as the kernels compute.
struct AdamWScalars {
  float learning_rate = 0.0F;
  float beta1 = 0.0F, beta2 = 0.0F, epsilon = 0.0F;
  float rest1 = 1.0F, rest2 = 1.0F;  // 1 - beta1, 1 - beta2
  float correction1 = 1.0F;          // 1 - beta1^t
  float correction2 = 1.0F;          // sqrt(1 - beta2^t)
};

}  // namespace qlora
