#include "qlora/nn/batch.h"

#include <algorithm>
#include <bit>

namespace qlora {

std::int64_t token_bucket(std::int64_t tokens) {
  const auto count = static_cast<std::uint64_t>(std::max<std::int64_t>(tokens, 1));
  const std::uint64_t step = std::max<std::uint64_t>(16, std::bit_floor(count) / 16);
  return static_cast<std::int64_t>((count + step - 1) / step * step);
}

std::int64_t coarse_bucket(std::int64_t count) {
  const auto least = static_cast<std::uint64_t>(std::max<std::int64_t>(count, 4));
  const std::uint64_t step = std::bit_floor(least) / 4;
  return static_cast<std::int64_t>((least + step - 1) / step * step);
}

std::int64_t power_of_two(std::int64_t count) {
  return static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(count)));
}

}  // namespace qlora
