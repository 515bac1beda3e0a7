// Token embedding: row ids[t] of the table for each token.
#pragma once

#include "qlora/nn/operation.h"
#include "qlora/nn/weight.h"

namespace qlora {

class Embedding : public Operation {
 public:
  Embedding(Weight table, std::int64_t columns, Dtype dtype);  // table [vocabulary, columns]

  std::string_view name() const override { return "embedding"; }
  OperationPlan plan(const BatchShape& shape) const override { return {{shape.tokens, columns_}, dtype_, {}}; }
  OperationTraits traits() const override { return {}; }
  bool trainable() const override { return table_.trainable(); }
  void forward(const Batch& batch, const OperationViews& views) override;
  void backward(const Batch& batch, const OperationViews& views) override;

 private:
  Weight table_;
  std::int64_t columns_;
  Dtype dtype_;
};

}  // namespace qlora
