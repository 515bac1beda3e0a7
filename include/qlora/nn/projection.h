// A linear layer, and the one place where LoRA happens.
#pragma once

#include <vector>

#include "qlora/nn/dropout.h"
#include "qlora/nn/kernels.h"
#include "qlora/nn/operation.h"
#include "qlora/nn/weight.h"

namespace qlora {

// An adapter on the output columns [begin, begin + out): y += scale * dropout(x) A^T B^T (Hu et al. 2021).
struct LoraSegment {
  std::int64_t begin = 0;  // first output column
  std::int64_t out = 0;
  std::int64_t rank = 0;
  double scale = 1.0;  // alpha / r, or alpha / sqrt(r)
  double dropout = 0.0;
  DropoutKey key;
  ParameterSet::Id a = -1;  // [rank, in]; the A of one projection's adapters are neighbours in the ParameterSet
  ParameterSet::Id b = -1;  // [out, rank]
};

// One input x, a stack of weights W (Q, K and V; gate and up), one output: y = x W^T + bias + adapters (+ residual).
class Projection : public Operation {
 public:
  struct Spec {
    std::int64_t in = 0;
    std::int64_t out = 0;
    Weight weight;  // [out, in]
    Weight bias;    // [out], or none
    std::vector<LoraSegment> adapters;
    bool residual = false;  // input 1 is added: y = residual + ...
  };
  Projection(Spec spec, ParameterSet& parameters, Dtype dtype);

  std::string_view name() const override { return "projection"; }
  OperationPlan plan(const BatchShape& shape) const override;
  OperationTraits traits() const override;
  bool trainable() const override;
  void forward(const Batch& batch, const OperationViews& views) override;
  void backward(const Batch& batch, const OperationViews& views) override;

 private:
  bool has_dropout() const;
  // Whether kernels serve that make masks in registers, for all adapters at once; else each adapter with dropout has
  // products of a dropped copy of x.
  bool fuses_adapters(at::Device device) const;
  // Whether one kernel can write what the adapters add to all of y, which the frozen product is then added to.
  bool writes_whole_output(at::Device device) const;
  std::vector<gpu::LoraDown> down_adapters() const;
  std::vector<gpu::LoraUp> up_adapters() const;
  void compute_low_rank(const Batch& batch, const OperationViews& views);
  void add_adapters(const OperationViews& views);
  void add_adapters_backward(const Batch& batch, const OperationViews& views);
  void add_b_gradients(const OperationViews& views);
  void add_a_gradients(const Batch& batch, const OperationViews& views);
  void add_weight_gradients(const OperationViews& views);
  at::Tensor stacked_a() const;

  Spec spec_;
  ParameterSet& parameters_;
  Dtype dtype_;
  std::int64_t ranks_ = 0;  // of all adapters together
};

}  // namespace qlora
