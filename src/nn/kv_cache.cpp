#include "qlora/nn/kv_cache.h"

#include <ATen/ops/zeros.h>

namespace qlora {

KvCache::KvCache(std::int64_t layers, std::int64_t slots, std::int64_t kv_heads, std::int64_t head_dim,
                 std::int64_t capacity, at::Device device, at::ScalarType dtype)
    : capacity_(capacity), lengths_(static_cast<std::size_t>(slots), 0) {
  const auto options = at::TensorOptions().device(device).dtype(dtype);
  for (std::int64_t i = 0; i < layers; ++i) {
    keys_.push_back(at::zeros({slots, kv_heads, capacity, head_dim}, options));
    values_.push_back(at::zeros({slots, kv_heads, capacity, head_dim}, options));
  }
}

void KvCache::move(std::int64_t from, std::int64_t to) {
  if (from == to) return;
  const std::int64_t held = length(from);
  for (std::size_t layer = 0; layer < keys_.size(); ++layer) {
    keys_[layer][to].narrow(1, 0, held).copy_(keys_[layer][from].narrow(1, 0, held));
    values_[layer][to].narrow(1, 0, held).copy_(values_[layer][from].narrow(1, 0, held));
  }
  lengths_[static_cast<std::size_t>(to)] = held;
}

}  // namespace qlora
