// Root-mean-square normalization (Zhang & Sennrich 2019): y = x / sqrt(mean(x^2) + eps) * (offset + weight),
// over the last dimension; offset is 1 in Gemma, 0 elsewhere.
#pragma once

#include "qlora/nn/operation.h"
#include "qlora/nn/weight.h"

namespace qlora {

class RmsNorm : public Operation {
 public:
  // weight: [columns] in dtype. The mean is taken in float32 (float64 for float64), as transformers does.
  RmsNorm(Weight weight, std::int64_t columns, double epsilon, Dtype dtype, double offset = 0.0);

  std::string_view name() const override { return "rms_norm"; }
  OperationPlan plan(const BatchShape& shape) const override;
  OperationTraits traits() const override;
  bool trainable() const override { return weight_.trainable(); }
  void forward(const Batch& batch, const OperationViews& views) override;
  void backward(const Batch& batch, const OperationViews& views) override;

  // The same over any rows: x, y [N, columns]; inverse [N, 1] and scratch [N, columns] (three of them for backward) in
  // the accumulation type. backward adds to d_x where `accumulate`.
  void normalize(const at::Tensor& x, const at::Tensor& y, const at::Tensor& inverse, const at::Tensor& scratch) const;
  void differentiate(const at::Tensor& x, const at::Tensor& d_y, const at::Tensor& inverse, const at::Tensor& d_x,
                     bool accumulate, const at::Tensor& scratch_a, const at::Tensor& scratch_b,
                     const at::Tensor& scratch_c) const;

  std::int64_t columns() const { return columns_; }
  bool uses_kernels(at::Device device) const;  // and so needs no scratch

 private:
  Weight weight_;
  std::int64_t columns_;
  double epsilon_;
  Dtype dtype_;
  double offset_;
};

// float32, or float64 for float64: what sums are taken in.
Dtype accumulation_dtype(Dtype dtype);

}  // namespace qlora
