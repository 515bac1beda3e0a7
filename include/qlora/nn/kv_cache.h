// Keys and values of rows that are being generated, one slot a row.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace qlora {

class KvCache {
 public:
  KvCache(std::int64_t layers, std::int64_t slots, std::int64_t kv_heads, std::int64_t head_dim, std::int64_t capacity,
          at::Device device, at::ScalarType dtype);

  // [slots, kv_heads, capacity, head_dim]
  const at::Tensor& keys(std::int64_t layer) const { return keys_[static_cast<std::size_t>(layer)]; }
  const at::Tensor& values(std::int64_t layer) const { return values_[static_cast<std::size_t>(layer)]; }

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
  std::vector<at::Tensor> keys_, values_;
  std::vector<std::int64_t> lengths_;
};

}  // namespace qlora
