// Gated activation (Shazeer 2020): y = silu(gate) * up, silu(z) = z * sigmoid(z).
#pragma once

#include "qlora/nn/operation.h"

namespace qlora {

// in [tokens, 2 * columns] = gate beside up; out [tokens, columns].
class SwiGlu : public Operation {
 public:
  SwiGlu(std::int64_t columns, Dtype dtype) : columns_(columns), dtype_(dtype) {}

  std::string_view name() const override { return "swiglu"; }
  OperationPlan plan(const BatchShape& shape) const override;
  OperationTraits traits() const override;
  void forward(const Batch& batch, const OperationViews& views) override;
  void backward(const Batch& batch, const OperationViews& views) override;

 private:
  std::int64_t columns_;
  Dtype dtype_;
};

}  // namespace qlora
