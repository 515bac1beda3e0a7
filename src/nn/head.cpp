#include "qlora/nn/head.h"

#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/mm.h>

namespace qlora {
namespace {

// A chunk's logits take this many elements: 64 MiB in float32.
constexpr std::int64_t kChunkElements = std::int64_t{1} << 24;

enum LossBuffer {
  kLogits = Head::kRowBufferCount,
  kNarrowLogits,
  kDNormed,
  kDRows,
  kScratchA,
  kScratchB,
  kScratchC,
};

at::Tensor rows(const at::Tensor& buffer, std::int64_t count) {
  return buffer.narrow(0, 0, count);
}

void add_weight_gradient(at::Tensor grad, const at::Tensor& d_logits, const at::Tensor& normed) {
  if (grad.scalar_type() == d_logits.scalar_type()) {
    grad.addmm_(d_logits.t(), normed);
  } else {
    grad.add_(at::mm(d_logits.t(), normed));
  }
}

OperationTraits reads_nothing_back() {
  OperationTraits traits;
  traits.backward_reads_input = {false};
  return traits;
}

}  // namespace

void LogitTransform::apply(const at::Tensor& logits) const {
  if (scale != 1.0) logits.mul_(scale);
  if (softcap != 0.0) logits.div_(softcap).tanh_().mul_(softcap);
}

at::Tensor LogitTransform::slope(const at::Tensor& logits) const {
  if (softcap == 0.0) return at::full({1}, scale, logits.options());
  return (logits / softcap).square_().neg_().add_(1.0).mul_(scale);
}

Head::Head(RmsNorm norm, Weight weight, std::int64_t vocabulary, Dtype dtype, LogitTransform transform)
    : norm_(std::move(norm)), weight_(weight), vocabulary_(vocabulary), dtype_(dtype), transform_(transform) {}

std::int64_t Head::chunk_rows(const BatchShape& shape) const {
  return std::clamp<std::int64_t>(kChunkElements / vocabulary_, 1, std::max<std::int64_t>(shape.labelled, 1));
}

std::vector<BufferSpec> Head::row_buffers(const BatchShape& shape, Life life) const {
  const Dtype wide = accumulation_dtype(dtype_);
  const Shape size{shape.labelled, columns()};
  return {{"rows", size, dtype_, life},
          {"normed", size, dtype_, life},
          {"inverse", {shape.labelled, 1}, wide, life},
          {"wide", size, wide, life}};
}

at::Tensor Head::gather(const Batch& batch, const OperationViews& v) const {
  const std::int64_t count = batch.labelled.size(0);
  at::Tensor picked = rows(v.buffers[kRows], count);
  at::index_select_out(picked, v.in[0], 0, batch.labelled);
  const at::Tensor normed = rows(v.buffers[kNormed], count);
  norm_.normalize(picked, normed, rows(v.buffers[kInverse], count), rows(v.buffers[kWide], count));
  return normed;
}

void Head::logits(const at::Tensor& normed, const at::Tensor& out) const {
  at::Tensor result = out;
  if (result.scalar_type() == dtype_) {
    at::mm_out(result, normed, weight_.get().t());
  } else {
    result.copy_(at::mm(normed, weight_.get().t()));
  }
  transform_.apply(result);
}

OperationPlan LossHead::plan(const BatchShape& shape) const {
  const Dtype wide = accumulation_dtype(head_->dtype());
  const Shape size{shape.labelled, head_->columns()};
  const Shape chunk{head_->chunk_rows(shape), head_->vocabulary()};
  OperationPlan plan{{1}, wide, head_->row_buffers(shape, Life::kForwardScratch)};
  plan.buffers.push_back({"logits", chunk, wide, Life::kForwardScratch});
  plan.buffers.push_back({"narrow_logits", chunk, head_->dtype(), Life::kForwardScratch});
  plan.buffers.push_back({"d_normed", size, head_->dtype(), Life::kForwardScratch});
  plan.buffers.push_back({"d_rows", size, head_->dtype(), Life::kSaved});
  for (const char* name : {"a", "b", "c"}) plan.buffers.push_back({name, size, wide, Life::kForwardScratch});
  return plan;
}

OperationTraits LossHead::traits() const {
  return reads_nothing_back();
}

// d_logits = loss_scale * (softmax(logits) - onehot(target)), written over the logits.
void LossHead::forward(const Batch& batch, const OperationViews& v) {
  const LogitTransform& transform = head_->transform();
  v.out.zero_();
  head_->for_each_chunk(batch, v, v.buffers[kLogits], [&](const Head::Chunk& chunk) {
    at::Tensor d_logits = chunk.logits;
    const at::Tensor lse = at::logsumexp(chunk.logits, {1}, /*keepdim=*/true);
    v.out.add_((lse - chunk.logits.gather(1, chunk.targets)).sum(), batch.loss_scale);
    const at::Tensor slope = transform.changes() ? transform.slope(chunk.logits) : at::Tensor();
    d_logits.sub_(lse).exp_().mul_(batch.loss_scale);
    d_logits.scatter_add_(1, chunk.targets, at::full_like(lse, -batch.loss_scale));
    if (slope.defined()) d_logits.mul_(slope);
    if (head_->dtype() != d_logits.scalar_type()) {
      d_logits = rows(v.buffers[kNarrowLogits], chunk.size);
      d_logits.copy_(chunk.logits);
    }
    at::Tensor d_normed = v.buffers[kDNormed].narrow(0, chunk.begin, chunk.size);
    at::mm_out(d_normed, d_logits, head_->weight().get());
    if (head_->weight().trainable()) add_weight_gradient(head_->weight().grad(), d_logits, chunk.normed);
  });
  const std::int64_t count = batch.labelled.size(0);
  if (count == 0) return;
  head_->norm().differentiate(rows(v.buffers[Head::kRows], count), rows(v.buffers[kDNormed], count),
                              rows(v.buffers[Head::kInverse], count), rows(v.buffers[kDRows], count), false,
                              rows(v.buffers[kScratchA], count), rows(v.buffers[kScratchB], count),
                              rows(v.buffers[kScratchC], count));
}

void LossHead::backward(const Batch& batch, const OperationViews& v) {
  if (!v.d_in[0].defined()) return;
  at::Tensor d_in = v.d_in[0];
  d_in.zero_();
  d_in.index_copy_(0, batch.labelled, rows(v.buffers[kDRows], batch.labelled.size(0)));
}

OperationPlan NllHead::plan(const BatchShape& shape) const {
  const Dtype wide = accumulation_dtype(head_->dtype());
  OperationPlan plan{
      {std::max<std::int64_t>(shape.labelled, 1)}, wide, head_->row_buffers(shape, Life::kForwardScratch)};
  plan.buffers.push_back({"logits", {head_->chunk_rows(shape), head_->vocabulary()}, wide, Life::kForwardScratch});
  return plan;
}

OperationTraits NllHead::traits() const {
  return reads_nothing_back();
}

void NllHead::forward(const Batch& batch, const OperationViews& v) {
  v.out.zero_();
  head_->for_each_chunk(batch, v, v.buffers[kLogits], [&](const Head::Chunk& chunk) {
    const at::Tensor nll = at::logsumexp(chunk.logits, {1}, /*keepdim=*/true) - chunk.logits.gather(1, chunk.targets);
    v.out.narrow(0, chunk.begin, chunk.size).copy_(nll.squeeze(1));
  });
}

OperationPlan LogitsHead::plan(const BatchShape& shape) const {
  return {{std::max<std::int64_t>(shape.labelled, 1), head_->vocabulary()},
          accumulation_dtype(head_->dtype()),
          head_->row_buffers(shape, Life::kForwardScratch)};
}

OperationTraits LogitsHead::traits() const {
  return reads_nothing_back();
}

void LogitsHead::forward(const Batch& batch, const OperationViews& v) {
  const at::Tensor normed = head_->gather(batch, v);
  head_->logits(normed, rows(v.out, batch.labelled.size(0)));
}

}  // namespace qlora
