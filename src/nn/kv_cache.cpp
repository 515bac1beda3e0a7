#include "qlora/nn/kv_cache.h"

#include <ATen/ops/zeros.h>

#include "qlora/nn/rms_norm.h"

namespace qlora {

KvCache::KvCache(const std::vector<CacheLayer>& layers, std::int64_t slots, std::int64_t capacity, at::Device device,
                 at::ScalarType dtype)
    : capacity_(capacity), lengths_(static_cast<std::size_t>(slots), 0) {
  const auto options = at::TensorOptions().device(device).dtype(dtype);
  const auto wide = options.dtype(accumulation_dtype(dtype));
  for (const CacheLayer& layer : layers) {
    keys_.push_back(at::zeros({slots, layer.kv_heads, capacity, layer.head_dim}, options));
    values_.push_back(at::zeros({slots, layer.kv_heads, capacity, layer.head_dim}, options));
    states_.push_back(at::zeros({slots, layer.state_length, layer.state_columns}, wide));
  }
}

void KvCache::move(std::int64_t from, std::int64_t to) {
  if (from == to) return;
  const std::int64_t held = length(from);
  for (std::size_t layer = 0; layer < keys_.size(); ++layer) {
    keys_[layer][to].narrow(1, 0, held).copy_(keys_[layer][from].narrow(1, 0, held));
    values_[layer][to].narrow(1, 0, held).copy_(values_[layer][from].narrow(1, 0, held));
    states_[layer][to].copy_(states_[layer][from]);
  }
  lengths_[static_cast<std::size_t>(to)] = held;
}

}  // namespace qlora
