#include "qlora/nn/short_convolution.h"

#include <algorithm>
#include <array>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/mul.h>

#include "qlora/nn/kv_cache.h"
#include "qlora/nn/rms_norm.h"

namespace qlora {
namespace {

enum Buffer { kU, kSum, kBackwardU, kBackwardSum, kDSum, kDU };

// [tokens - shift, 1]: 1 where the token `shift` places before is of the same row. A token's position counts from its
// row's first token, and no row is longer than its positions say.
at::Tensor same_row(const Batch& batch, std::int64_t shift, Dtype dtype) {
  return (batch.positions.slice(0, shift) >= shift).to(dtype).unsqueeze(1);
}

bool continues_rows(const Batch& batch) {
  return batch.cache != nullptr && std::any_of(batch.cache_slots.begin(), batch.cache_slots.end(),
                                               [&](std::int64_t slot) { return batch.cache->length(slot) > 0; });
}

}  // namespace

OperationPlan ShortConvolution::plan(const BatchShape& shape) const {
  const Dtype wide = accumulation_dtype(dtype_);
  const Shape rows{shape.tokens, spec_.columns};
  OperationPlan plan{rows, dtype_, {}};
  for (const char* name : {"u", "sum"}) plan.buffers.push_back({name, rows, wide, Life::kForwardScratch});
  for (const char* name : {"u", "sum", "d_sum", "d_u"})
    plan.buffers.push_back({name, rows, wide, Life::kBackwardScratch});
  return plan;
}

OperationTraits ShortConvolution::traits() const {
  OperationTraits traits;
  traits.backward_reads_input = {true};
  traits.d_in_may_overwrite_input = true;
  traits.cheap = true;
  return traits;
}

at::Tensor ShortConvolution::part(const at::Tensor& packed, std::int64_t index) const {
  return packed.narrow(1, index * spec_.columns, spec_.columns);
}

at::Tensor ShortConvolution::tap(std::int64_t shift) const {
  return spec_.weight.get().select(2, spec_.length - 1 - shift).squeeze(1).to(accumulation_dtype(dtype_));
}

void ShortConvolution::convolve(const Batch& batch, const at::Tensor& u, const at::Tensor& sum) const {
  at::Tensor out = sum;
  at::mul_out(out, u, tap(0));
  const std::int64_t tokens = u.size(0);
  for (std::int64_t shift = 1; shift < std::min(spec_.length, tokens); ++shift) {
    const at::Tensor before = u.narrow(0, 0, tokens - shift) * same_row(batch, shift, u.scalar_type());
    sum.slice(0, shift).addcmul_(before, tap(shift));
  }
  if (spec_.bias) sum.add_(spec_.bias.get());
}

// Every row is one new token behind what its slot holds; the tail's go on in the spare slot.
void ShortConvolution::decode(const Batch& batch, const at::Tensor& u, const at::Tensor& sum) const {
  at::Tensor state = batch.cache->state(spec_.layer);
  const at::Tensor window = at::cat({state.index_select(0, batch.slots), u.unsqueeze(1)}, 1);  // [T, length, columns]
  const at::Tensor weight = spec_.weight.get().squeeze(1).t().to(u.scalar_type());             // [length, columns]
  sum.copy_((window * weight).sum(1));
  if (spec_.bias) sum.add_(spec_.bias.get());
  state.index_copy_(0, batch.slots, window.narrow(1, 1, spec_.length - 1));
}

// Rows of several tokens behind what their slots hold, or at the beginning of one.
void ShortConvolution::continue_rows(const Batch& batch, const at::Tensor& u, const at::Tensor& sum) const {
  sum.zero_();
  const std::int64_t held = spec_.length - 1;
  for (std::size_t row = 0; row + 1 < batch.row_bounds.size(); ++row) {
    const std::int64_t begin = batch.row_bounds[row];
    const std::int64_t tokens = batch.row_bounds[row + 1] - begin;
    const at::Tensor state = batch.cache->state(spec_.layer)[batch.cache_slots[row]];
    if (batch.cache->length(batch.cache_slots[row]) == 0) state.zero_();
    const at::Tensor window = at::cat({state, u.narrow(0, begin, tokens)}, 0);  // [held + tokens, columns]
    at::Tensor out = sum.narrow(0, begin, tokens);
    for (std::int64_t shift = 0; shift <= held; ++shift)
      out.addcmul_(window.narrow(0, held - shift, tokens), tap(shift));
    state.copy_(window.narrow(0, tokens, held));
  }
  if (spec_.bias) sum.add_(spec_.bias.get());
}

// The last length - 1 values of u of each row, which begins its slot; zeros stand before its first.
void ShortConvolution::keep_state(const Batch& batch, const at::Tensor& u) const {
  const std::int64_t held = spec_.length - 1;
  for (std::size_t row = 0; row + 1 < batch.row_bounds.size(); ++row) {
    const std::int64_t end = batch.row_bounds[row + 1];
    const std::int64_t fresh = std::min(held, end - batch.row_bounds[row]);
    const at::Tensor state = batch.cache->state(spec_.layer)[batch.cache_slots[row]];
    state.zero_();
    state.narrow(0, held - fresh, fresh).copy_(u.narrow(0, end - fresh, fresh));
  }
}

void ShortConvolution::forward(const Batch& batch, const OperationViews& v) {
  at::Tensor u = v.buffers[kU];
  at::Tensor out = v.out;
  u.copy_(part(v.in[0], 0)).mul_(part(v.in[0], 2));
  if (continues_rows(batch) && batch.decodes()) {
    decode(batch, u, v.buffers[kSum]);
  } else if (continues_rows(batch)) {
    continue_rows(batch, u, v.buffers[kSum]);
  } else {
    convolve(batch, u, v.buffers[kSum]);
    if (batch.cache != nullptr) keep_state(batch, u);
  }
  out.copy_(v.buffers[kSum].mul_(part(v.in[0], 1)));
}

void ShortConvolution::convolve_backward(const Batch& batch, const at::Tensor& u, const at::Tensor& d_sum,
                                         const at::Tensor& d_u) const {
  at::Tensor out = d_u;
  at::mul_out(out, d_sum, tap(0));
  const std::int64_t tokens = u.size(0);
  const auto add_weight_gradient = [&](std::int64_t shift, const at::Tensor& products) {
    if (spec_.weight.trainable())
      spec_.weight.grad().select(2, spec_.length - 1 - shift).squeeze(1).add_(products.sum(0));
  };
  add_weight_gradient(0, d_sum * u);
  for (std::int64_t shift = 1; shift < std::min(spec_.length, tokens); ++shift) {
    const at::Tensor after = d_sum.slice(0, shift) * same_row(batch, shift, u.scalar_type());
    d_u.narrow(0, 0, tokens - shift).addcmul_(after, tap(shift));
    add_weight_gradient(shift, after * u.narrow(0, 0, tokens - shift));
  }
  if (spec_.bias && spec_.bias.trainable()) spec_.bias.grad().add_(d_sum.sum(0));
}

// With s = the sum: d_c = d_y s, d_s = d_y c, d_b = d_u x, d_x = d_u b. The gradient may lie on the input itself, so
// all four are made before one is written.
void ShortConvolution::backward(const Batch& batch, const OperationViews& v) {
  at::Tensor u = v.buffers[kBackwardU];
  at::Tensor d_c = v.buffers[kBackwardSum];
  at::Tensor d_sum = v.buffers[kDSum];
  const at::Tensor& d_u = v.buffers[kDU];
  u.copy_(part(v.in[0], 0)).mul_(part(v.in[0], 2));
  d_sum.copy_(v.d_out).mul_(part(v.in[0], 1));
  convolve_backward(batch, u, d_sum, d_u);
  if (!v.d_in[0].defined()) return;
  convolve(batch, u, d_c);
  d_c.mul_(v.d_out);
  const at::Tensor d_b = d_u * part(v.in[0], 2);
  const at::Tensor d_x = d_u * part(v.in[0], 0);
  const std::array<at::Tensor, 3> gradients{d_b, d_c, d_x};
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    const at::Tensor target = part(v.d_in[0], static_cast<std::int64_t>(i));
    if (v.accumulate[0]) {
      target.add_(gradients[i]);
    } else {
      target.copy_(gradients[i]);
    }
  }
}

}  // namespace qlora
