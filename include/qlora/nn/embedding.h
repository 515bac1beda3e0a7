// Token embedding: row ids[t] of the table for each token, times a scale.
#pragma once

#include <optional>

#include "qlora/nn/lora.h"
#include "qlora/nn/operation.h"
#include "qlora/nn/weight.h"

namespace qlora {

class Embedding : public Operation {
 public:
  struct Spec {
    Weight table;  // [vocabulary, columns]
    std::int64_t columns = 0;
    double scale = 1.0;  // rounded to dtype, as the reference implementation of Gemma has it
    // Its A is [rank, vocabulary], its B [columns, rank]: row t gains scale * B A[:, ids[t]]. No dropout, as PEFT.
    std::optional<LoraSegment> adapter;
    double noise = 0.0;      // NEFTune's alpha (nn/neftune.h), in training
    std::uint64_t seed = 0;  // of the noise
  };
  Embedding(Spec spec, ParameterSet& parameters, Dtype dtype);

  std::string_view name() const override { return "embedding"; }
  OperationPlan plan(const BatchShape& shape) const override;
  OperationTraits traits() const override { return {}; }
  bool trainable() const override { return spec_.adapter.has_value() || spec_.table.trainable(); }
  void forward(const Batch& batch, const OperationViews& views) override;
  void backward(const Batch& batch, const OperationViews& views) override;

 private:
  Spec spec_;
  ParameterSet& parameters_;
  Dtype dtype_;
};

}  // namespace qlora
