// The linears of a mixture of experts (Shazeer et al. 2017): each token goes through those of the experts that its
// router chose. What an expert gets is multiplied as one product; a weight that gets nothing is not decoded.
#pragma once

#include <vector>

#include "qlora/nn/projection.h"

namespace qlora {

// Where a routing [tokens, experts] is not zero, one expert after the other: the rows that its linears work on.
struct ExpertRows {
  at::Tensor tokens;                 // int64 [rows], rising within an expert
  at::Tensor weights;                // [rows, 1], of the routing's type
  std::vector<std::int64_t> bounds;  // [experts + 1]: the rows of expert e are [bounds[e], bounds[e+1])
};
// Waits for the device.
ExpertRows expert_rows(const at::Tensor& routing);

// What both operations below share: one Projection an expert, alike but for their adapters, without dropout and DoRA.
class ExpertOperation : public Operation {
 public:
  ExpertOperation(std::vector<Projection> experts, std::int64_t per_token, Dtype dtype);

  bool trainable() const override;

 protected:
  enum Buffer { kLowRank, kDLowRank, kOwn };  // the first of the operation's own buffers is kOwn
  std::vector<BufferSpec> low_rank_buffers(const BatchShape& shape) const;
  std::int64_t in() const { return experts_.front().in(); }
  std::int64_t out() const { return experts_.front().out(); }
  // The views of one expert's projection but for its tensors: rows [begin, begin + count) of all.
  OperationViews expert_views(std::size_t expert, const OperationViews& views, std::int64_t begin,
                              std::int64_t count) const;
  // body(expert, begin, count) for each expert that has rows.
  template <class Body>
  void for_each_expert(const ExpertRows& rows, const Body& body) {
    for (std::size_t e = 0; e < experts_.size(); ++e) {
      const std::int64_t count = rows.bounds[e + 1] - rows.bounds[e];
      if (count > 0) body(e, rows.bounds[e], count);
    }
  }

  std::vector<Projection> experts_;
  std::int64_t per_token_;
  std::int64_t ranks_ = 0;  // the most of one expert
  Dtype dtype_;
};

// Inputs x [tokens, in] and routing [tokens, experts]; out [tokens * per_token, out] = each expert's product of the
// rows of x that go to it, as ExpertRows has them; 0 behind the last.
class DispatchProjection : public ExpertOperation {
 public:
  using ExpertOperation::ExpertOperation;
  std::string_view name() const override { return "dispatch"; }
  OperationPlan plan(const BatchShape& shape) const override;
  OperationTraits traits() const override;
  void forward(const Batch& batch, const OperationViews& views) override;
  void backward(const Batch& batch, const OperationViews& views) override;

 private:
  enum Own { kForwardRows = kOwn, kBackwardRows, kSum };
};

// Inputs h [tokens * per_token, in] (DispatchProjection's rows), routing and residual [tokens, out];
// out [tokens, out] = residual + the sum over a token's experts of weight * W h.
class CombineProjection : public ExpertOperation {
 public:
  using ExpertOperation::ExpertOperation;
  std::string_view name() const override { return "combine"; }
  OperationPlan plan(const BatchShape& shape) const override;
  OperationTraits traits() const override;
  void forward(const Batch& batch, const OperationViews& views) override;
  void backward(const Batch& batch, const OperationViews& views) override;

 private:
  enum Own { kForwardScaled = kOwn, kForwardProduct, kSum, kBackwardScaled, kDProduct };
};

}  // namespace qlora
