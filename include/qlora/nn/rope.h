// Rotary position embedding (Su et al. 2021), in the half-split layout of Hugging Face's checkpoints:
// y1 = x1 cos - x2 sin, y2 = x2 cos + x1 sin, where x1 and x2 are the halves of each head.
#pragma once

#include <memory>

#include "qlora/nn/operation.h"
#include "qlora/nn/rope_scaling.h"

namespace qlora {

// cos and sin of position * frequency, shared by all layers of a model; grows to the longest row seen.
class RopeTable {
 public:
  RopeTable(std::int64_t head_dim, double base, RopeScaling scaling, at::Device device, Dtype dtype);

  // Makes the tables at least `length` positions long. What they held before stays where it is: captured graphs read
  // it.
  void grow(std::int64_t length);
  // [positions, head_dim / 2] in the accumulation type of dtype.
  const at::Tensor& cos() const { return cos_; }
  const at::Tensor& sin() const { return sin_; }
  // cos, sin [tokens, head_dim / 2] in the accumulation type of dtype.
  void gather(const at::Tensor& positions, std::int64_t length, at::Tensor cos, at::Tensor sin);
  // Overwrites those of rows whose length gives them frequencies of their own; see varies_with_length().
  void gather_long_rows(const Batch& batch, const at::Tensor& cos, const at::Tensor& sin) const;
  bool varies_with_length() const { return scaling_.varies_with_length(); }

  std::int64_t head_dim() const { return head_dim_; }
  const at::Tensor& inverse_frequencies() const { return inverse_frequencies_; }  // float32 [head_dim / 2]

 private:
  std::int64_t head_dim_;
  double base_;
  RopeScaling scaling_;
  Dtype dtype_;
  at::Tensor inverse_frequencies_, cos_, sin_;
  std::vector<at::Tensor> outgrown_;
};

// Rotates the first `rotated_heads` heads of each token in place: x [tokens, heads * head_dim]. Of each head the first
// table->head_dim() columns turn; head_dim 0: that is all of them.
class Rope : public Operation {
 public:
  Rope(std::shared_ptr<RopeTable> table, std::int64_t rotated_heads, std::int64_t heads, Dtype dtype,
       std::int64_t head_dim = 0);

  std::string_view name() const override { return "rope"; }
  OperationPlan plan(const BatchShape& shape) const override;
  OperationTraits traits() const override;
  void forward(const Batch& batch, const OperationViews& views) override;
  void backward(const Batch& batch, const OperationViews& views) override;

 private:
  bool uses_kernel(at::Device device) const;
  void rotate(const Batch& batch, const at::Tensor& x, const std::vector<at::Tensor>& scratch, double sign);

  std::shared_ptr<RopeTable> table_;
  std::int64_t rotated_heads_, heads_;
  Dtype dtype_;
  std::int64_t head_dim_;
};

}  // namespace qlora
