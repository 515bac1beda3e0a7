// The gated short convolution of LFM2: a causal depthwise convolution over a few tokens of the same row, between gates.
#pragma once

#include "qlora/nn/operation.h"
#include "qlora/nn/weight.h"

namespace qlora {

// in [tokens, 3 * columns] = b, c and x side by side; out [tokens, columns]. With u = b * x and w [columns, length]:
// y[t] = c[t] * (bias + sum over j < length of w[:, length - 1 - j] * u[t - j]), where u is 0 before a row's first
// token. With batch.cache, rows continue from the last length - 1 values of u that their slots hold.
class ShortConvolution : public Operation {
 public:
  struct Spec {
    std::int64_t columns = 0;
    std::int64_t length = 0;  // of the kernel
    Weight weight;            // [columns, 1, length]
    Weight bias;              // [columns], or none
    std::int64_t layer = 0;   // whose state in the cache it is
  };
  ShortConvolution(Spec spec, Dtype dtype) : spec_(std::move(spec)), dtype_(dtype) {}

  std::string_view name() const override { return "short_conv"; }
  OperationPlan plan(const BatchShape& shape) const override;
  OperationTraits traits() const override;
  bool trainable() const override { return spec_.weight.trainable(); }
  void forward(const Batch& batch, const OperationViews& views) override;
  void backward(const Batch& batch, const OperationViews& views) override;

 private:
  at::Tensor part(const at::Tensor& packed, std::int64_t index) const;  // 0: b, 1: c, 2: x
  at::Tensor tap(std::int64_t shift) const;  // the weight of u[t - shift], [columns] in the accumulation type
  void convolve(const Batch& batch, const at::Tensor& u, const at::Tensor& sum) const;
  void decode(const Batch& batch, const at::Tensor& u, const at::Tensor& sum) const;
  void continue_rows(const Batch& batch, const at::Tensor& u, const at::Tensor& sum) const;
  void keep_state(const Batch& batch, const at::Tensor& u) const;
  // d_u from d_sum; adds the gradients of weight and bias.
  void convolve_backward(const Batch& batch, const at::Tensor& u, const at::Tensor& d_sum, const at::Tensor& d_u) const;

  Spec spec_;
  Dtype dtype_;
};

}  // namespace qlora
