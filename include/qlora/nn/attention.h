// Causal scaled dot-product attention over packed rows that cannot see each other, with grouped queries: the softmax of
// scale * q k^T, which may be soft-capped (c * tanh(score / c)) and limited to a window of the last keys.
#pragma once

#include "qlora/nn/operation.h"

namespace qlora {

struct AttentionShape {
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;  // each serves heads / kv_heads query heads
  std::int64_t head_dim = 0;
  double scale = 0.0;       // of the scores: 1 / sqrt(head_dim)
  std::int64_t window = 0;  // how many keys a query sees, its own among them; 0: all
  double softcap = 0.0;     // of the scores; 0: none

  std::int64_t query_columns() const { return heads * head_dim; }
  std::int64_t kv_columns() const { return kv_heads * head_dim; }
};

// in [tokens, (heads + 2 kv_heads) * head_dim] = queries, keys and values side by side; out [tokens, heads * head_dim].
// With batch.cache the rows continue what their slots hold, and their keys and values are added to it.
class Attention : public Operation {
 public:
  Attention(AttentionShape shape, std::int64_t layer, Dtype dtype) : shape_(shape), layer_(layer), dtype_(dtype) {}

  std::string_view name() const override { return "attention"; }
  OperationPlan plan(const BatchShape& shape) const override;
  OperationTraits traits() const override;
  void forward(const Batch& batch, const OperationViews& views) override;
  void backward(const Batch& batch, const OperationViews& views) override;

 private:
  std::int64_t workspace(const BatchShape& shape) const;
  void forward_rows(const Batch& batch, const OperationViews& views);

  AttentionShape shape_;
  std::int64_t layer_;
  Dtype dtype_;
};

}  // namespace qlora
