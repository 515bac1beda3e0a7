// What the layers keep of rows that are being generated, one slot a row: keys and values, or a convolution's last
// inputs.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace qlora {

// Of one layer; zero for what it does not keep.
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
  KvCache(const std::vector<CacheLayer>& layers, std::int64_t slots, std::int64_t capacity, at::Device device,
          at::ScalarType dtype);

  // [slots, kv_heads, capacity, head_dim]
  const at::Tensor& keys(std::int64_t layer) const { return keys_[static_cast<std::size_t>(layer)]; }
  const at::Tensor& values(std::int64_t layer) const { return values_[static_cast<std::size_t>(layer)]; }
  // [slots, state_length, state_columns] in the accumulation type
  const at::Tensor& state(std::int64_t layer) const { return states_[static_cast<std::size_t>(layer)]; }

  // Tokens that a slot holds: the same for all layers while a pass runs; advance() after it.
  std::int64_t length(std::int64_t slot) const { return lengths_[static_cast<std::size_t>(slot)]; }
  void advance(std::int64_t slot, std::int64_t tokens) { lengths_[static_cast<std::size_t>(slot)] += tokens; }
  void clear(std::int64_t slot) { lengths_[static_cast<std::size_t>(slot)] = 0; }
  // Copies what slot `from` holds over slot `to`.
  void move(std::int64_t from, std::int64_t to);

  std::int64_t slots() const { return static_cast<std::int64_t>(lengths_.size()); }
  std::int64_t capacity() const { return capacity_; }

 private:
  std::int64_t capacity_;
  std::vector<at::Tensor> keys_, values_, states_;
  std::vector<std::int64_t> lengths_;
};

}  // namespace qlora
