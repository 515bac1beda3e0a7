// Gated activation (Shazeer 2020): y = f(gate) * up, SwiGLU with f = silu, GEGLU with f = gelu.
#pragma once

#include "qlora/nn/activation.h"
#include "qlora/nn/operation.h"

namespace qlora {

// in [tokens, 2 * columns] = gate beside up; out [tokens, columns].
class GatedActivation : public Operation {
 public:
  GatedActivation(Activation activation, std::int64_t columns, Dtype dtype)
      : activation_(activation), columns_(columns), dtype_(dtype) {}

  std::string_view name() const override { return activation_ == Activation::kSilu ? "swiglu" : "geglu"; }
  OperationPlan plan(const BatchShape& shape) const override;
  OperationTraits traits() const override;
  void forward(const Batch& batch, const OperationViews& views) override;
  void backward(const Batch& batch, const OperationViews& views) override;

 private:
  bool has_kernel(at::Device device) const;

  Activation activation_;
  std::int64_t columns_;
  Dtype dtype_;
};

}  // namespace qlora
