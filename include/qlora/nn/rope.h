// Rotary position embedding (Su et al. 2021), in the half-split layout of Hugging Face's checkpoints:
// y1 = x1 cos - x2 sin, y2 = x2 cos + x1 sin, where x1 and x2 are the halves of each head.
#pragma once

#include <memory>

#include "qlora/nn/operation.h"

namespace qlora {

// How the frequencies base^(-2i/D) are changed; see the "rope_scaling" of config.json.
struct RopeScaling {
  enum class Kind { kNone, kLinear, kLlama3 };
  Kind kind = Kind::kNone;
  double factor = 1.0;
  double low_freq_factor = 1.0;          // llama3
  double high_freq_factor = 4.0;         // llama3
  double original_max_positions = 8192;  // llama3
};

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

  std::int64_t head_dim() const { return head_dim_; }
  const at::Tensor& inverse_frequencies() const { return inverse_frequencies_; }  // float32 [head_dim / 2]

 private:
  std::int64_t head_dim_;
  Dtype dtype_;
  at::Tensor inverse_frequencies_, cos_, sin_;
  std::vector<at::Tensor> outgrown_;
};

// Rotates the first `rotated_heads` heads of each token in place: x [tokens, heads * head_dim].
class Rope : public Operation {
 public:
  Rope(std::shared_ptr<RopeTable> table, std::int64_t rotated_heads, std::int64_t heads, Dtype dtype);

  std::string_view name() const override { return "rope"; }
  OperationPlan plan(const BatchShape& shape) const override;
  OperationTraits traits() const override;
  void forward(const Batch& batch, const OperationViews& views) override;
  void backward(const Batch& batch, const OperationViews& views) override;

 private:
  void rotate(const Batch& batch, const at::Tensor& x, const std::vector<at::Tensor>& scratch, double sign);

  std::shared_ptr<RopeTable> table_;
  std::int64_t rotated_heads_, heads_;
  Dtype dtype_;
};

}  // namespace qlora
