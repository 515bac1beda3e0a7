#include "qlora/nn/head.h"

#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/mm.h>

#include "qlora/nn/gemm.h"
#include "qlora/nn/kernels.h"

namespace qlora {
namespace {

// A chunk's logits take this many elements: 64 MiB in float32. On a GPU, where every chunk reads the head's weight
// anew, 256 MiB in 16 bits.
constexpr std::int64_t kChunkElements = std::int64_t{1} << 24;
constexpr std::int64_t kGpuChunkElements = std::int64_t{1} << 27;

enum LossBuffer {
  kLogits = Head::kRowBufferCount,
  kNarrowLogits,
  kDNormed,
  kDLowRank,
  kDRows,
  kScratchA,
  kScratchB,
  kScratchC,
  kNll,
};

at::Tensor rows(const at::Tensor& buffer, std::int64_t count) {
  return buffer.narrow(0, 0, count);
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

Head::Head(RmsNorm norm, Spec spec, ParameterSet& parameters, Dtype dtype)
    : norm_(std::move(norm)), spec_(std::move(spec)), parameters_(parameters), dtype_(dtype) {}

std::int64_t Head::chunk_rows(const BatchShape& shape) const {
  const bool kernels = gpu::serves(shape.device, dtype_) && dtype_ != at::kFloat;
  return std::clamp<std::int64_t>((kernels ? kGpuChunkElements : kChunkElements) / vocabulary(), 1,
                                  std::max<std::int64_t>(shape.labelled, 1));
}

std::vector<BufferSpec> Head::row_buffers(const BatchShape& shape, Life life) const {
  const Dtype wide = accumulation_dtype(dtype_);
  const Shape size{shape.labelled, columns()};
  return {{"rows", size, dtype_, life},
          {"normed", size, dtype_, life},
          {"inverse", {shape.labelled, 1}, wide, life},
          {"wide", norm_.uses_kernels(shape.device) ? Shape{0, columns()} : size, wide, life},
          {"low_rank", {shape.labelled, rank()}, dtype_, life},
          {"dropped", {spec_.adapter && spec_.adapter->dropout > 0.0 ? shape.labelled : 0, columns()}, dtype_, life}};
}

Head::Rows Head::gather(const Batch& batch, const OperationViews& v) const {
  const std::int64_t count = batch.labelled.size(0);
  at::Tensor picked = rows(v.buffers[kRows], count);
  at::index_select_out(picked, v.in[0], 0, batch.labelled);
  const at::Tensor normed = rows(v.buffers[kNormed], count);
  norm_.normalize(picked, normed, rows(v.buffers[kInverse], count), v.buffers[kWide].slice(0, 0, count));
  const at::Tensor low_rank = rows(v.buffers[kLowRank], count);
  if (spec_.adapter) {
    const LoraSegment& adapter = *spec_.adapter;
    const at::Tensor input = drops(batch) ? rows(v.buffers[kDropped], count) : normed;
    if (drops(batch)) apply_dropout_at(batch.labelled, normed, input, batch, adapter.key, adapter.dropout);
    gemm(low_rank, input, parameters_.compute(adapter.a).t());
  }
  return {normed, low_rank};
}

void Head::logits(const Rows& rows, const at::Tensor& out) const {
  const at::Tensor weight = spec_.weight.get().t();
  if (out.scalar_type() == dtype_) {
    gemm(out, rows.normed, weight);
  } else if (out.is_cuda()) {  // sums are not rounded to the compute type
    gemm(at::Tensor(out).zero_(), rows.normed, weight, {1.0, out, {}});
  } else {
    out.copy_(at::mm(rows.normed, weight));
  }
  if (spec_.adapter) {
    gemm(out, rows.low_rank, parameters_.compute(spec_.adapter->b).t(), {spec_.adapter->scale, out, {}});
  }
  spec_.transform.apply(out);
}

// d_normed = d_logits W, d_W += d_logits^T normed; d_u = s d_logits B, d_B += s d_logits^T u.
void Head::differentiate(const Chunk& chunk, const at::Tensor& d_logits, const at::Tensor& d_normed,
                         const at::Tensor& d_low_rank) const {
  gemm(d_normed.narrow(0, chunk.begin, chunk.size), d_logits, spec_.weight.get());
  if (spec_.weight.trainable()) {
    const at::Tensor grad = spec_.weight.grad();
    gemm(grad, d_logits.t(), chunk.rows.normed, {1.0, grad, {}});
  }
  if (!spec_.adapter) return;
  const LoraSegment& adapter = *spec_.adapter;
  const at::Tensor d_b = parameters_.grad(adapter.b);
  gemm(d_low_rank.narrow(0, chunk.begin, chunk.size), d_logits, parameters_.compute(adapter.b),
       {adapter.scale, {}, {}});
  gemm(d_b, d_logits.t(), chunk.rows.low_rank, {adapter.scale, d_b, {}});
}

// d_A += d_u^T dropout(normed), d_normed += dropout(d_u A).
void Head::differentiate_low_rank(const Batch& batch, const OperationViews& v, const at::Tensor& d_normed,
                                  const at::Tensor& d_low_rank) const {
  if (!spec_.adapter) return;
  const LoraSegment& adapter = *spec_.adapter;
  const at::Tensor a = parameters_.compute(adapter.a), d_a = parameters_.grad(adapter.a);
  const at::Tensor input = rows(v.buffers[drops(batch) ? kDropped : kNormed], d_normed.size(0));
  gemm(d_a, d_low_rank.t(), input, {1.0, d_a, {}});
  if (!drops(batch)) return gemm(d_normed, d_low_rank, a, {1.0, d_normed, {}});
  gemm(input, d_low_rank, a);
  apply_dropout_at(batch.labelled, input, d_normed, batch, adapter.key, adapter.dropout, /*accumulate=*/true);
}

OperationPlan LossHead::plan(const BatchShape& shape) const {
  const Dtype wide = accumulation_dtype(head_->dtype());
  const bool kernels = gpu::serves(shape.device, head_->dtype());
  const Shape size{shape.labelled, head_->columns()};
  const Shape chunk{head_->chunk_rows(shape), head_->vocabulary()};
  OperationPlan plan{{1}, wide, head_->row_buffers(shape, Life::kForwardScratch)};
  plan.buffers.push_back({"logits", kernels ? Shape{0, chunk[1]} : chunk, wide, Life::kForwardScratch});
  plan.buffers.push_back({"narrow_logits", chunk, head_->dtype(), Life::kForwardScratch});
  plan.buffers.push_back({"d_normed", size, head_->dtype(), Life::kForwardScratch});
  plan.buffers.push_back({"d_low_rank", {shape.labelled, head_->rank()}, head_->dtype(), Life::kForwardScratch});
  plan.buffers.push_back({"d_rows", size, head_->dtype(), Life::kSaved});
  const RmsNorm& norm = head_->norm();
  const Shape scratch = norm.uses_kernels(shape.device) && !norm.trainable() ? Shape{0, size[1]} : size;
  for (const char* name : {"a", "b", "c"}) plan.buffers.push_back({name, scratch, wide, Life::kForwardScratch});
  plan.buffers.push_back({"nll", {kernels ? shape.labelled : 0}, wide, Life::kForwardScratch});
  return plan;
}

OperationTraits LossHead::traits() const {
  return reads_nothing_back();
}

// d_logits = loss_scale * (softmax(logits) - onehot(target)), written over the logits; 0 where the target is -1.
at::Tensor LossHead::differentiate(const Batch& batch, const OperationViews& v, const Head::Chunk& chunk) const {
  const LogitTransform& transform = head_->transform();
  const at::Tensor slope = transform.changes() ? transform.slope(chunk.logits) : at::Tensor();
  if (gpu::serves(v.in[0])) {
    gpu::cross_entropy(chunk.logits, chunk.targets, v.buffers[kNll].narrow(0, chunk.begin, chunk.size),
                       batch.loss_factor);
    if (slope.defined()) chunk.logits.mul_(slope);
    return chunk.logits;
  }
  const at::Tensor targets = chunk.targets.clamp_min(0);
  const at::Tensor counts = (chunk.targets >= 0).to(chunk.logits.scalar_type());
  const at::Tensor lse = at::logsumexp(chunk.logits, {1}, /*keepdim=*/true);
  v.out.add_((lse - chunk.logits.gather(1, targets)).mul_(counts).sum(), batch.loss_scale);
  const at::Tensor factors = counts * batch.loss_scale;
  chunk.logits.sub_(lse).exp_().mul_(factors);
  chunk.logits.scatter_add_(1, targets, -factors);
  if (slope.defined()) chunk.logits.mul_(slope);
  if (head_->dtype() == chunk.logits.scalar_type()) return chunk.logits;
  return rows(v.buffers[kNarrowLogits], chunk.size).copy_(chunk.logits);
}

void LossHead::forward(const Batch& batch, const OperationViews& v) {
  const bool kernels = gpu::serves(v.in[0]);
  const std::int64_t count = batch.labelled.size(0);
  const at::Tensor d_normed = rows(v.buffers[kDNormed], count), d_low_rank = rows(v.buffers[kDLowRank], count);
  v.out.zero_();
  head_->for_each_chunk(batch, v, v.buffers[kernels ? kNarrowLogits : kLogits], [&](const Head::Chunk& chunk) {
    head_->differentiate(chunk, differentiate(batch, v, chunk), d_normed, d_low_rank);
  });
  if (count == 0) return;
  head_->differentiate_low_rank(batch, v, d_normed, d_low_rank);
  if (kernels) gpu::scaled_sum(rows(v.buffers[kNll], count), batch.loss_factor, v.out);
  const auto scratch = [&](LossBuffer buffer) { return v.buffers[buffer].slice(0, 0, count); };
  head_->norm().differentiate(rows(v.buffers[Head::kRows], count), d_normed, rows(v.buffers[Head::kInverse], count),
                              rows(v.buffers[kDRows], count), false, scratch(kScratchA), scratch(kScratchB),
                              scratch(kScratchC));
}

void LossHead::backward(const Batch& batch, const OperationViews& v) {
  if (!v.d_in[0].defined()) return;
  at::Tensor d_in = v.d_in[0];
  d_in.zero_();
  d_in.index_copy_(0, batch.labelled, rows(v.buffers[kDRows], batch.labelled.size(0)));
}

OperationPlan NllHead::plan(const BatchShape& shape) const {
  const Dtype wide = accumulation_dtype(head_->dtype());
  const Dtype logits = gpu::serves(shape.device, head_->dtype()) ? head_->dtype() : wide;
  OperationPlan plan{
      {std::max<std::int64_t>(shape.labelled, 1)}, wide, head_->row_buffers(shape, Life::kForwardScratch)};
  plan.buffers.push_back({"logits", {head_->chunk_rows(shape), head_->vocabulary()}, logits, Life::kForwardScratch});
  return plan;
}

OperationTraits NllHead::traits() const {
  return reads_nothing_back();
}

void NllHead::forward(const Batch& batch, const OperationViews& v) {
  v.out.zero_();
  head_->for_each_chunk(batch, v, v.buffers[kLogits], [&](const Head::Chunk& chunk) {
    const at::Tensor out = v.out.narrow(0, chunk.begin, chunk.size);
    if (gpu::serves(chunk.logits)) return gpu::cross_entropy(chunk.logits, chunk.targets, out, {});
    const at::Tensor nll =
        at::logsumexp(chunk.logits, {1}, /*keepdim=*/true) - chunk.logits.gather(1, chunk.targets.clamp_min(0));
    out.copy_(nll.masked_fill_(chunk.targets < 0, 0.0).squeeze(1));
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
  head_->logits(head_->gather(batch, v), rows(v.out, batch.labelled.size(0)));
}

}  // namespace qlora
