// Root-mean-square normalization of every query head and every key head by itself, as Qwen3 has it; values pass.
#pragma once

#include "qlora/nn/kernels.h"
#include "qlora/nn/operation.h"
#include "qlora/nn/weight.h"

namespace qlora {

// in, out [tokens, (heads + 2 kv_heads) * head_dim] = queries, keys and values side by side. For each query head
// y = x / sqrt(mean(x^2) + epsilon) * (offset + query_weight), for each key head with key_weight; y = x for values.
class HeadNorm : public Operation {
 public:
  struct Spec {
    std::int64_t heads = 0, kv_heads = 0, head_dim = 0;
    Weight query_weight, key_weight;  // [head_dim]
    double epsilon = 1e-6;
    double offset = 0.0;
  };
  HeadNorm(Spec spec, Dtype dtype) : spec_(std::move(spec)), dtype_(dtype) {}

  std::string_view name() const override { return "head_norm"; }
  OperationPlan plan(const BatchShape& shape) const override;
  OperationTraits traits() const override;
  bool trainable() const override { return spec_.query_weight.trainable(); }
  void forward(const Batch& batch, const OperationViews& views) override;
  void backward(const Batch& batch, const OperationViews& views) override;

 private:
  struct Part {
    std::int64_t first_head, heads;
    const Weight& weight;
  };
  std::int64_t normed_heads() const { return spec_.heads + spec_.kv_heads; }
  at::Tensor heads_of(const at::Tensor& x, const Part& part) const;  // [tokens, heads, head_dim]
  at::Tensor values_of(const at::Tensor& x) const;
  gpu::HeadNorms norms() const;
  at::Tensor gain(const Weight& weight) const;
  void differentiate(const OperationViews& views, const Part& part) const;

  Spec spec_;
  Dtype dtype_;
};

}  // namespace qlora
