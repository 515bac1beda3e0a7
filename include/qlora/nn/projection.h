// A linear layer, and the one place where LoRA happens.
#pragma once

#include <vector>

#include "qlora/nn/kernels.h"
#include "qlora/nn/lora.h"
#include "qlora/nn/operation.h"
#include "qlora/nn/weight.h"

namespace qlora {

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

  std::int64_t in() const { return spec_.in; }
  std::int64_t out() const { return spec_.out; }
  std::int64_t ranks() const { return ranks_; }  // of all adapters together

  // The buffers of plan(). Without dropout, DoRA and fp8 only the first and kDLowRank [tokens, ranks()] are used.
  enum Buffer {
    kLowRank,
    kForwardDropped,
    kDLowRank,
    kBackwardDropped,
    kWorkspace,
    kNorms,
    kAdaptedRows,
    kForwardProduct,
    kBackwardProduct,
    kScaledDOut,
    kForwardCodes,
    kForwardScales,
    kBackwardCodes,
    kBackwardScales,
    kBufferCount,
  };

 private:
  bool has_dropout() const;
  bool has_magnitudes() const;
  // Whether kernels serve that make masks in registers, for all adapters at once; else each adapter with dropout has
  // products of a dropped copy of x.
  bool fuses_adapters(at::Device device) const;
  // Whether one kernel can write what the adapters add to all of y, which the frozen product is then added to.
  bool writes_whole_output(at::Device device) const;
  // The frozen product in fp8; not with DoRA, whose norms want W itself.
  bool in_fp8() const;
  std::vector<gpu::LoraDown> down_adapters() const;
  std::vector<gpu::LoraUp> up_adapters() const;
  void compute_low_rank(const Batch& batch, const OperationViews& views);
  void add_adapters(const OperationViews& views);
  void add_adapters_backward(const Batch& batch, const OperationViews& views);
  void add_b_gradients(const OperationViews& views, const at::Tensor& d_out);
  void add_a_gradients(const Batch& batch, const OperationViews& views);
  void add_weight_gradients(const OperationViews& views);
  at::Tensor stacked_a() const;
  // DoRA (projection_dora.cpp): what the operation does instead where its adapters have magnitudes.
  std::int64_t norm_rows() const;
  void compute_norms(const OperationViews& views);
  void forward_with_magnitudes(const Batch& batch, const OperationViews& views);
  void backward_with_magnitudes(const Batch& batch, const OperationViews& views);
  void differentiate_magnitudes(const Batch& batch, const OperationViews& views);
  void add_dropped_gradients(const Batch& batch, const OperationViews& views);

  Spec spec_;
  ParameterSet& parameters_;
  Dtype dtype_;
  std::int64_t ranks_ = 0;
};

}  // namespace qlora
