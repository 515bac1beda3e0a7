// Gated activation (Shazeer 2020): y = f(gate) * up, SwiGLU with f = silu, GEGLU with f = gelu.
#pragma once

#include "qlora/nn/activation.h"
#include "qlora/nn/operation.h"

namespace qlora {

// in [rows, 2 * columns] = gate beside up; out [rows, columns]; rows = tokens * rows_per_token.
class GatedActivation : public Operation {
 public:
  GatedActivation(Activation activation, std::int64_t columns, Dtype dtype, std::int64_t rows_per_token = 1)
      : activation_(activation), columns_(columns), dtype_(dtype), rows_per_token_(rows_per_token) {}

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
  std::int64_t rows_per_token_;
};

}  // namespace qlora
