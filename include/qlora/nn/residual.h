// Adds to the residual stream what a projection cannot add by itself: y = residual + scale * x.
#pragma once

#include "qlora/nn/operation.h"

namespace qlora {

// Inputs x and residual, [tokens, columns] each.
class Residual : public Operation {
 public:
  Residual(std::int64_t columns, double scale, Dtype dtype) : columns_(columns), scale_(scale), dtype_(dtype) {}

  std::string_view name() const override { return "residual"; }
  OperationPlan plan(const BatchShape& shape) const override { return {{shape.tokens, columns_}, dtype_, {}}; }
  OperationTraits traits() const override;
  void forward(const Batch& batch, const OperationViews& views) override;
  void backward(const Batch& batch, const OperationViews& views) override;

 private:
  std::int64_t columns_;
  double scale_;
  Dtype dtype_;
};

}  // namespace qlora
