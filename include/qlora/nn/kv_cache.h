// What the layers keep of rows that are being generated, one slot a row: keys and values, or a convolution's last
// inputs.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace qlora {

// Of one layer; zero for what it does not keep. Layers of a kind are alike.
struct CacheLayer {
  std::int64_t kv_heads = 0, head_dim = 0;
  std::int64_t state_length = 0, state_columns = 0;

  // Elements a slot for rows of up to `capacity` tokens.
  std::int64_t elements(std::int64_t capacity) const {
    return 2 * kv_heads * head_dim * capacity + state_length * state_columns;
  }
};

class KvCache {
 public:
  // `dtype`: of keys and values; states are of its accumulation type. Behind the slots lies a spare one, where tokens
  // of no row go.
  KvCache(const std::vector<CacheLayer>& layers, std::int64_t slots, std::int64_t capacity, at::Device device,
          at::ScalarType dtype);

  // [slots + 1, capacity, kv_heads, head_dim]
  const at::Tensor& keys(std::int64_t layer) const { return layers_[static_cast<std::size_t>(layer)].keys; }
  const at::Tensor& values(std::int64_t layer) const { return layers_[static_cast<std::size_t>(layer)].values; }
  // [slots + 1, state_length, state_columns]
  const at::Tensor& state(std::int64_t layer) const { return layers_[static_cast<std::size_t>(layer)].state; }
  bool has_states() const { return states_.defined(); }

  // Tokens that a slot holds: the same for all layers while a pass runs; advance() after it.
  std::int64_t length(std::int64_t slot) const { return lengths_[static_cast<std::size_t>(slot)]; }
  void advance(std::int64_t slot, std::int64_t tokens) { lengths_[static_cast<std::size_t>(slot)] += tokens; }
  void clear(std::int64_t slot) { lengths_[static_cast<std::size_t>(slot)] = 0; }
  // Slot `to` then holds the first `tokens` of what `from` holds: all of it where layers keep states.
  void copy(std::int64_t from, std::int64_t to, std::int64_t tokens);

  std::int64_t slots() const { return static_cast<std::int64_t>(lengths_.size()); }
  std::int64_t spare_slot() const { return slots(); }
  std::int64_t capacity() const { return capacity_; }

 private:
  struct Layer {
    at::Tensor keys, values, state;
  };

  std::int64_t capacity_;
  at::Tensor keys_and_values_;  // [2 * layers that attend, slots + 1, capacity, kv_heads, head_dim]
  at::Tensor states_;           // [layers with states, slots + 1, state_length, state_columns]
  std::vector<Layer> layers_;
  std::vector<std::int64_t> lengths_;
};

}  // namespace qlora
