#include "qlora/nn/kv_cache.h"

#include <ATen/ops/index_select.h>
#include <ATen/ops/tensor.h>
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

void KvCache::keep(const std::vector<std::int64_t>& slots) {
  const at::Tensor order = at::tensor(slots, at::kLong).to(keys_.front().device());
  for (at::Tensor& tensor : keys_) tensor = at::index_select(tensor, 0, order);
  for (at::Tensor& tensor : values_) tensor = at::index_select(tensor, 0, order);
  std::vector<std::int64_t> lengths;
  for (std::int64_t slot : slots) lengths.push_back(length(slot));
  lengths_ = std::move(lengths);
}

}  // namespace qlora
