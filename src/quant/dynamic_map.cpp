#include "qlora/quant/dynamic_map.h"

#include <algorithm>
#include <cmath>

namespace qlora {
namespace {

std::array<float, 256> make_map(bool with_signs) {
  std::array<float, 256> map{};
  std::size_t filled = 0;
  for (int i = 0; i < 7; ++i) {
    const int intervals = with_signs ? 1 << i : 2 << i;
    const float step = (1.0F - 0.1F) / static_cast<float>(intervals);
    // torch.linspace: from the nearer end, with fused multiply-adds.
    const auto edge = [&](int k) {
      return k < (intervals + 1) / 2 ? std::fma(step, static_cast<float>(k), 0.1F)
                                     : std::fma(-step, static_cast<float>(intervals - k), 1.0F);
    };
    const auto power = static_cast<float>(std::pow(10.0, i - 6));
    for (int k = 0; k < intervals; ++k) {
      const float value = (edge(k) + edge(k + 1)) / 2.0F * power;
      map[filled++] = value;
      if (with_signs) map[filled++] = -value;
    }
  }
  map[filled++] = 0.0F;
  map[filled++] = 1.0F;
  std::sort(map.begin(), map.end());
  return map;
}

}  // namespace

const std::array<float, 256>& signed_dynamic_map() {
  static const std::array<float, 256> map = make_map(true);
  return map;
}

const std::array<float, 256>& unsigned_dynamic_map() {
  static const std::array<float, 256> map = make_map(false);
  return map;
}

}  // namespace qlora
