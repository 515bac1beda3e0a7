// Gated activation (Shazeer 2020) with GELU in its tanh form, as Gemma has it: y = gelu(gate) * up,
// gelu(z) = z / 2 * (1 + tanh(sqrt(2 / pi) * (z + 0.044715 z^3))).
#pragma once

#include "qlora/nn/operation.h"

namespace qlora {

// in [tokens, 2 * columns] = gate beside up; out [tokens, columns].
class GeGlu : public Operation {
 public:
  GeGlu(std::int64_t columns, Dtype dtype) : columns_(columns), dtype_(dtype) {}

  std::string_view name() const override { return "geglu"; }
  OperationPlan plan(const BatchShape& shape) const override;
  OperationTraits traits() const override;
  void forward(const Batch& batch, const OperationViews& views) override;
  void backward(const Batch& batch, const OperationViews& views) override;

 private:
  std::int64_t columns_;
  Dtype dtype_;
};

}  // namespace qlora
