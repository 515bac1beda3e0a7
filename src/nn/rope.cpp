#include "qlora/nn/rope.h"

#include <algorithm>

#include <ATen/ops/arange.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/tensor.h>

#include "qlora/nn/kernels.h"
#include "qlora/nn/kv_cache.h"
#include "qlora/nn/rms_norm.h"

namespace qlora {

RopeTable::RopeTable(std::int64_t head_dim, double base, RopeScaling scaling, at::Device device, Dtype dtype)
    : head_dim_(head_dim), base_(base), scaling_(std::move(scaling)), dtype_(accumulation_dtype(dtype)) {
  inverse_frequencies_ = at::tensor(rope_frequencies(head_dim_, base_, scaling_, 0), at::kFloat).to(device);
}

void RopeTable::grow(std::int64_t length) {
  if (cos_.defined() && cos_.size(0) >= length) return;
  const std::int64_t size = cos_.defined() ? std::max(length, 2 * cos_.size(0)) : std::max<std::int64_t>(length, 256);
  if (cos_.defined()) outgrown_.insert(outgrown_.end(), {cos_, sin_});
  const auto frequencies = inverse_frequencies_.to(dtype_);
  const auto angles = at::outer(at::arange(size, frequencies.options()), frequencies);
  cos_ = angles.cos().mul_(scaling_.attention_factor);
  sin_ = angles.sin().mul_(scaling_.attention_factor);
}

void RopeTable::gather(const at::Tensor& positions, std::int64_t length, at::Tensor cos, at::Tensor sin) {
  grow(length);
  at::index_select_out(cos, cos_, 0, positions);
  at::index_select_out(sin, sin_, 0, positions);
}

void RopeTable::gather_long_rows(const Batch& batch, const at::Tensor& cos, const at::Tensor& sin) const {
  const auto longest = static_cast<std::int64_t>(scaling_.original_max_positions);
  if (!scaling_.varies_with_length() || batch.max_length <= longest) return;
  for (std::size_t row = 0; row + 1 < batch.row_bounds.size(); ++row) {
    const std::int64_t begin = batch.row_bounds[row];
    const std::int64_t tokens = batch.row_bounds[row + 1] - begin;
    const std::int64_t held = batch.cache != nullptr ? batch.cache->length(batch.cache_slots[row]) : 0;
    if (held + tokens <= longest) continue;
    const at::Tensor frequencies =
        at::tensor(rope_frequencies(head_dim_, base_, scaling_, held + tokens), at::kFloat).to(cos.options());
    const at::Tensor angles = at::outer(batch.positions.narrow(0, begin, tokens).to(dtype_), frequencies);
    cos.narrow(0, begin, tokens).copy_(angles.cos().mul_(scaling_.attention_factor));
    sin.narrow(0, begin, tokens).copy_(angles.sin().mul_(scaling_.attention_factor));
  }
}

Rope::Rope(std::shared_ptr<RopeTable> table, std::int64_t rotated_heads, std::int64_t heads, Dtype dtype,
           std::int64_t head_dim)
    : table_(std::move(table)),
      rotated_heads_(rotated_heads),
      heads_(heads),
      dtype_(dtype),
      head_dim_(head_dim > 0 ? head_dim : table_->head_dim()) {}

// The kernel turns whole heads, by the table alone.
bool Rope::uses_kernel(at::Device device) const {
  return head_dim_ == table_->head_dim() && !table_->varies_with_length() && gpu::serves(device, dtype_);
}

OperationPlan Rope::plan(const BatchShape& shape) const {
  const Dtype wide = accumulation_dtype(dtype_);
  const std::int64_t half = table_->head_dim() / 2;
  const std::int64_t rows = uses_kernel(shape.device) ? 0 : shape.tokens;
  OperationPlan plan{{shape.tokens, heads_ * head_dim_}, dtype_, {}};
  for (const Life life : {Life::kForwardScratch, Life::kBackwardScratch}) {
    plan.buffers.push_back({"cos", {rows, half}, wide, life});
    plan.buffers.push_back({"sin", {rows, half}, wide, life});
    for (const char* name : {"a", "b", "c"}) plan.buffers.push_back({name, {rows, rotated_heads_, half}, wide, life});
  }
  return plan;
}

OperationTraits Rope::traits() const {
  OperationTraits traits;
  traits.backward_reads_input = {false};
  traits.in_place = true;
  traits.cheap = true;
  traits.reads_host_rows = table_->varies_with_length();
  return traits;
}

void Rope::forward(const Batch& batch, const OperationViews& views) {
  rotate(batch, views.out, {views.buffers.begin(), views.buffers.begin() + 5}, 1.0);
}

void Rope::backward(const Batch& batch, const OperationViews& views) {
  rotate(batch, views.d_out, {views.buffers.begin() + 5, views.buffers.end()}, -1.0);
}

void Rope::rotate(const Batch& batch, const at::Tensor& x, const std::vector<at::Tensor>& scratch, double sign) {
  if (uses_kernel(x.device())) {
    table_->grow(batch.max_length);
    return gpu::rope(x, batch.positions, table_->cos(), table_->sin(), rotated_heads_, heads_, sign);
  }
  const std::int64_t half = table_->head_dim() / 2;
  at::Tensor a = scratch[2];
  at::Tensor b = scratch[3];
  at::Tensor c = scratch[4];
  table_->gather(batch.positions, batch.max_length, scratch[0], scratch[1]);
  table_->gather_long_rows(batch, scratch[0], scratch[1]);
  const at::Tensor cos = scratch[0].unsqueeze(1);
  const at::Tensor sin = scratch[1].unsqueeze(1);
  const at::Tensor heads = x.view({x.size(0), heads_, head_dim_}).narrow(1, 0, rotated_heads_);
  const at::Tensor x1 = heads.narrow(2, 0, half);
  const at::Tensor x2 = heads.narrow(2, half, half);
  a.copy_(x1);
  b.copy_(x2);
  at::mul_out(c, a, cos);
  c.addcmul_(b, sin, -sign);
  x1.copy_(c);
  b.mul_(cos).addcmul_(a, sin, sign);
  x2.copy_(b);
}

}  // namespace qlora
