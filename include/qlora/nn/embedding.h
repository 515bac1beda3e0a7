// Token embedding: row ids[t] of the table for each token, times a scale.
#pragma once

#include "qlora/nn/operation.h"
#include "qlora/nn/weight.h"

namespace qlora {

class Embedding : public Operation {
 public:
  // table [vocabulary, columns]. The scale is rounded to dtype, as the reference implementation of Gemma has it.
  Embedding(Weight table, std::int64_t columns, Dtype dtype, double scale = 1.0);

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
  double scale_;
};

}  // namespace qlora
