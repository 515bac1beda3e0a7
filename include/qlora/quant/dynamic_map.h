// The dynamic 8-bit codes of bitsandbytes (Dettmers 2015, 8-Bit Approximations for Parallelism in Deep Learning): many
// codes near zero, each decade with half as many as the one above it.
#pragma once

#include <array>
#include <cstdint>

#include "qlora/core/host_device.h"

namespace qlora {

// [256], ascending. Signed: for i in 0..6 the midpoints of linspace(0.1, 1, 2^i + 1) times 10^(i-6), with both signs,
// and 0 and 1. Unsigned: the same of linspace(0.1, 1, 2^(i+1) + 1), with one sign.
const std::array<float, 256>& signed_dynamic_map();
const std::array<float, 256>& unsigned_dynamic_map();

// The code of a value of [-1, 1]: binary search from the middle of the map, then the nearer of two neighbours; a tie
// and NaN stay where they are.
QLORA_HOST_DEVICE inline std::uint8_t dynamic_code(float value, const float* map) {
  int pivot = 127;
  int upper = 255;
  int lower = 0;
  for (int step = 64; step > 0; step /= 2) {
    const bool above = value > map[pivot];
    (above ? lower : upper) = pivot;
    pivot += above ? step : -step;
  }
  const float here = map[pivot];
  if (value > here) return static_cast<std::uint8_t>(value > (map[upper] + here) * 0.5F ? upper : pivot);
  return static_cast<std::uint8_t>(value < (map[lower] + here) * 0.5F ? lower : pivot);
}

}  // namespace qlora
