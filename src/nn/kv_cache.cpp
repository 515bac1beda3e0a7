#include "qlora/nn/kv_cache.h"

#include <algorithm>

#include <ATen/ops/zeros.h>

#include "qlora/nn/rms_norm.h"

namespace qlora {

KvCache::KvCache(const std::vector<CacheLayer>& layers, std::int64_t slots, std::int64_t capacity, at::Device device,
                 at::ScalarType dtype)
    : capacity_(capacity), lengths_(static_cast<std::size_t>(slots), 0) {
  const auto options = at::TensorOptions().device(device).dtype(dtype);
  const auto attends = [](const CacheLayer& layer) { return layer.kv_heads > 0; };
  const auto attending = std::count_if(layers.begin(), layers.end(), attends);
  if (const auto like = std::find_if(layers.begin(), layers.end(), attends); like != layers.end())
    keys_and_values_ = at::zeros({2 * attending, slots + 1, capacity, like->kv_heads, like->head_dim}, options);
  if (const auto like = std::find_if_not(layers.begin(), layers.end(), attends); like != layers.end()) {
    const auto count = static_cast<std::int64_t>(layers.size()) - attending;
    states_ = at::zeros({count, slots + 1, like->state_length, like->state_columns},
                        options.dtype(accumulation_dtype(dtype)));
  }
  std::int64_t attention = 0, state = 0;
  for (const CacheLayer& layer : layers) {
    if (attends(layer)) {
      layers_.push_back({keys_and_values_[attention], keys_and_values_[attention + 1], {}});
      attention += 2;
    } else {
      layers_.push_back({{}, {}, states_[state++]});
    }
  }
}

void KvCache::copy(std::int64_t from, std::int64_t to, std::int64_t tokens) {
  TORCH_CHECK(tokens <= length(from) && (!has_states() || tokens == length(from)), "slot ", from, " holds ",
              length(from), " tokens, not ", tokens);
  if (from == to) return;
  if (keys_and_values_.defined()) {
    keys_and_values_.select(1, to).narrow(1, 0, tokens).copy_(keys_and_values_.select(1, from).narrow(1, 0, tokens));
  }
  if (states_.defined()) states_.select(1, to).copy_(states_.select(1, from));
  lengths_[static_cast<std::size_t>(to)] = tokens;
}

}  // namespace qlora
