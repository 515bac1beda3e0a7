#include "qlora/nn/experts.h"

#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/nonzero.h>

#include "qlora/nn/rms_norm.h"

namespace qlora {
namespace {

std::int64_t bytes_of(Dtype dtype) {
  return static_cast<std::int64_t>(c10::elementSize(dtype));
}

// The first rows of a scratch buffer, filled with those of x that go to one expert.
at::Tensor picked(const at::Tensor& buffer, const at::Tensor& x, const at::Tensor& tokens) {
  at::Tensor rows = buffer.narrow(0, 0, tokens.size(0));
  at::index_select_out(rows, x, 0, tokens);
  return rows;
}

// The first rows of a scratch buffer, filled with weights * h.
at::Tensor scaled(const at::Tensor& buffer, const at::Tensor& h, const at::Tensor& weights) {
  at::Tensor rows = buffer.narrow(0, 0, h.size(0));
  at::mul_out(rows, h, weights);
  return rows;
}

// sum[tokens] += rows. A token comes once: nothing depends on the order in which a GPU adds.
void add_rows(const at::Tensor& sum, const at::Tensor& tokens, const at::Tensor& rows) {
  sum.index_add_(0, tokens, rows.to(sum.scalar_type()));
}

void zero_rest(const at::Tensor& rows, const ExpertRows& used) {
  rows.slice(0, used.bounds.back()).zero_();
}

// Gradients of the routing come from CombineProjection alone.
void no_gradient(const OperationViews& v, std::size_t input) {
  if (v.d_in[input].defined() && !v.accumulate[input]) at::Tensor(v.d_in[input]).zero_();
}

}  // namespace

ExpertRows expert_rows(const at::Tensor& routing) {
  const std::int64_t experts = routing.size(1);
  const at::Tensor places = at::nonzero(routing.t());  // [rows, 2]: expert and token
  const at::Tensor tokens = places.select(1, 1).contiguous();
  const at::Tensor weights = routing.view(-1).index_select(0, tokens * experts + places.select(1, 0));
  const at::Tensor counts = (routing != 0).sum(0).to(at::kCPU);
  ExpertRows rows{tokens, weights.unsqueeze(1), {0}};
  for (std::int64_t e = 0; e < experts; ++e) {
    rows.bounds.push_back(rows.bounds.back() + counts.const_data_ptr<std::int64_t>()[e]);
  }
  return rows;
}

ExpertOperation::ExpertOperation(std::vector<Projection> experts, std::int64_t per_token, Dtype dtype)
    : experts_(std::move(experts)), per_token_(per_token), dtype_(dtype) {
  for (const Projection& expert : experts_) ranks_ = std::max(ranks_, expert.ranks());
}

bool ExpertOperation::trainable() const {
  return std::any_of(experts_.begin(), experts_.end(), [](const Projection& expert) { return expert.trainable(); });
}

std::vector<BufferSpec> ExpertOperation::low_rank_buffers(const BatchShape& shape) const {
  return {{"low_rank", {shape.tokens * per_token_ * ranks_}, dtype_, Life::kSaved},
          {"d_low_rank", {shape.tokens * ranks_}, dtype_, Life::kBackwardScratch}};
}

OperationViews ExpertOperation::expert_views(std::size_t expert, const OperationViews& v, std::int64_t begin,
                                             std::int64_t count) const {
  const std::int64_t ranks = experts_[expert].ranks();
  const auto part = [&](Buffer buffer, std::int64_t first) {
    const at::Tensor& flat = v.buffers[buffer];
    return flat.defined() ? flat.narrow(0, first * ranks_, count * ranks).view({count, ranks}) : at::Tensor();
  };
  OperationViews views;
  views.buffers.resize(Projection::kBufferCount);
  views.buffers[Projection::kLowRank] = part(kLowRank, begin);
  views.buffers[Projection::kDLowRank] = part(kDLowRank, 0);
  views.accumulate = {false};
  return views;
}

OperationPlan DispatchProjection::plan(const BatchShape& shape) const {
  const Dtype wide = accumulation_dtype(dtype_);
  const std::int64_t rows = shape.tokens * per_token_;
  OperationPlan plan{{rows, out()}, dtype_, low_rank_buffers(shape)};
  plan.buffers.push_back({"rows", {shape.tokens, in()}, dtype_, Life::kForwardScratch});
  plan.buffers.push_back({"rows", {shape.tokens, in()}, dtype_, Life::kBackwardScratch});
  plan.buffers.push_back({"sum", {dtype_ == wide ? 0 : shape.tokens, in()}, wide, Life::kBackwardScratch});
  plan.workspace = shape.tokens * in() * bytes_of(wide) + 4 * rows * bytes_of(at::kLong);
  return plan;
}

OperationTraits DispatchProjection::traits() const {
  OperationTraits traits;
  traits.backward_reads_input = {true, true};
  traits.reads_host_rows = true;
  return traits;
}

void DispatchProjection::forward(const Batch& batch, const OperationViews& v) {
  const ExpertRows rows = expert_rows(v.in[1]);
  for_each_expert(rows, [&](std::size_t e, std::int64_t begin, std::int64_t count) {
    OperationViews views = expert_views(e, v, begin, count);
    views.in = {picked(v.buffers[kForwardRows], v.in[0], rows.tokens.narrow(0, begin, count))};
    views.out = v.out.narrow(0, begin, count);
    experts_[e].forward(batch, views);
  });
  zero_rest(v.out, rows);
}

void DispatchProjection::backward(const Batch& batch, const OperationViews& v) {
  const ExpertRows rows = expert_rows(v.in[1]);
  at::Tensor d_x = v.d_in[0];
  const bool narrow = v.buffers[kSum].numel() > 0;
  const at::Tensor sum = narrow ? v.buffers[kSum] : d_x;
  if (d_x.defined() && (narrow || !v.accumulate[0])) at::Tensor(sum).zero_();
  for_each_expert(rows, [&](std::size_t e, std::int64_t begin, std::int64_t count) {
    const at::Tensor tokens = rows.tokens.narrow(0, begin, count);
    OperationViews views = expert_views(e, v, begin, count);
    views.in = {picked(v.buffers[kBackwardRows], v.in[0], tokens)};
    views.d_out = v.d_out.narrow(0, begin, count);
    views.d_in = {d_x.defined() ? views.in[0] : at::Tensor()};  // over its input
    experts_[e].backward(batch, views);
    if (d_x.defined()) add_rows(sum, tokens, views.d_in[0]);
  });
  if (d_x.defined() && narrow) v.accumulate[0] ? d_x.add_(sum) : d_x.copy_(sum);
  no_gradient(v, 1);
}

OperationPlan CombineProjection::plan(const BatchShape& shape) const {
  const Dtype wide = accumulation_dtype(dtype_);
  OperationPlan plan{{shape.tokens, out()}, dtype_, low_rank_buffers(shape)};
  plan.buffers.push_back({"scaled", {shape.tokens, in()}, dtype_, Life::kForwardScratch});
  plan.buffers.push_back({"product", {shape.tokens, out()}, dtype_, Life::kForwardScratch});
  plan.buffers.push_back({"sum", {dtype_ == wide ? 0 : shape.tokens, out()}, wide, Life::kForwardScratch});
  plan.buffers.push_back({"scaled", {shape.tokens, in()}, dtype_, Life::kBackwardScratch});
  plan.buffers.push_back({"d_product", {shape.tokens, out()}, dtype_, Life::kBackwardScratch});
  plan.workspace =
      shape.tokens * std::max(in(), out()) * bytes_of(wide) + 4 * shape.tokens * per_token_ * bytes_of(at::kLong);
  return plan;
}

OperationTraits CombineProjection::traits() const {
  OperationTraits traits;
  traits.backward_reads_input = {true, true, false};
  traits.pass_through = 2;
  traits.reads_host_rows = true;
  return traits;
}

// W (weight * h): the weight is multiplied in before the product, so that backward has its gradient without another
// one.
void CombineProjection::forward(const Batch& batch, const OperationViews& v) {
  const ExpertRows rows = expert_rows(v.in[1]);
  at::Tensor out = v.out;
  const bool narrow = v.buffers[kSum].numel() > 0;
  at::Tensor sum = narrow ? v.buffers[kSum] : out;
  sum.copy_(v.in[2]);
  for_each_expert(rows, [&](std::size_t e, std::int64_t begin, std::int64_t count) {
    OperationViews views = expert_views(e, v, begin, count);
    views.in = {
        scaled(v.buffers[kForwardScaled], v.in[0].narrow(0, begin, count), rows.weights.narrow(0, begin, count))};
    views.out = v.buffers[kForwardProduct].narrow(0, 0, count);
    experts_[e].forward(batch, views);
    add_rows(sum, rows.tokens.narrow(0, begin, count), views.out);
  });
  if (narrow) out.copy_(sum);
}

// With u = weight * h: d_h = weight * d_u, d_weight = h . d_u.
void CombineProjection::backward(const Batch& batch, const OperationViews& v) {
  const ExpertRows rows = expert_rows(v.in[1]);
  no_gradient(v, 1);
  for_each_expert(rows, [&](std::size_t e, std::int64_t begin, std::int64_t count) {
    const at::Tensor tokens = rows.tokens.narrow(0, begin, count), weights = rows.weights.narrow(0, begin, count);
    const at::Tensor h = v.in[0].narrow(0, begin, count);
    OperationViews views = expert_views(e, v, begin, count);
    views.in = {scaled(v.buffers[kBackwardScaled], h, weights)};
    views.d_out = picked(v.buffers[kDProduct], v.d_out, tokens);
    views.d_in = {v.d_in[0].defined() ? views.in[0] : at::Tensor()};  // over its input
    experts_[e].backward(batch, views);
    if (!v.d_in[0].defined()) return;
    at::Tensor d_h = v.d_in[0].narrow(0, begin, count);
    if (v.d_in[1].defined()) {
      const at::Tensor d_weights = (h * views.d_in[0]).sum(1, /*keepdim=*/false, weights.scalar_type());
      v.d_in[1].select(1, static_cast<std::int64_t>(e)).index_add_(0, tokens, d_weights);
    }
    if (v.accumulate[0]) {
      d_h.add_(views.d_in[0] * weights);
    } else {
      at::mul_out(d_h, views.d_in[0], weights);
    }
  });
  if (v.d_in[0].defined() && !v.accumulate[0]) zero_rest(v.d_in[0], rows);
  if (v.d_in[2].defined() && v.accumulate[2]) v.d_in[2].add_(v.d_out);
}

}  // namespace qlora
