#include "qlora/nn/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include <ATen/ops/arange.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/tensor.h>

#include "qlora/nn/kernels.h"
#include "qlora/nn/rms_norm.h"

namespace qlora {
namespace {

// Llama 3.1's scaling: long wavelengths are divided by `factor`, short ones kept, those between blended.
float llama3_frequency(float frequency, const RopeScaling& s) {
  const double wavelength = 2.0 * std::numbers::pi / frequency;
  if (wavelength > s.original_max_positions / s.low_freq_factor) return static_cast<float>(frequency / s.factor);
  if (wavelength < s.original_max_positions / s.high_freq_factor) return frequency;
  const double smooth =
      (s.original_max_positions / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
  return static_cast<float>((1.0 - smooth) * frequency / s.factor + smooth * frequency);
}

std::vector<float> inverse_frequencies(std::int64_t head_dim, double base, const RopeScaling& scaling) {
  std::vector<float> frequencies;
  for (std::int64_t i = 0; i < head_dim; i += 2) {
    const float exponent = static_cast<float>(i) / static_cast<float>(head_dim);
    float frequency = 1.0F / static_cast<float>(std::pow(static_cast<float>(base), exponent));
    if (scaling.kind == RopeScaling::Kind::kLinear) frequency /= static_cast<float>(scaling.factor);
    if (scaling.kind == RopeScaling::Kind::kLlama3) frequency = llama3_frequency(frequency, scaling);
    frequencies.push_back(frequency);
  }
  return frequencies;
}

}  // namespace

RopeTable::RopeTable(std::int64_t head_dim, double base, RopeScaling scaling, at::Device device, Dtype dtype)
    : head_dim_(head_dim), dtype_(accumulation_dtype(dtype)) {
  inverse_frequencies_ = at::tensor(qlora::inverse_frequencies(head_dim, base, scaling), at::kFloat).to(device);
}

void RopeTable::grow(std::int64_t length) {
  if (cos_.defined() && cos_.size(0) >= length) return;
  const std::int64_t size = cos_.defined() ? std::max(length, 2 * cos_.size(0)) : std::max<std::int64_t>(length, 256);
  if (cos_.defined()) outgrown_.insert(outgrown_.end(), {cos_, sin_});
  const auto frequencies = inverse_frequencies_.to(dtype_);
  const auto angles = at::outer(at::arange(size, frequencies.options()), frequencies);
  cos_ = angles.cos();
  sin_ = angles.sin();
}

Rope::Rope(std::shared_ptr<RopeTable> table, std::int64_t rotated_heads, std::int64_t heads, Dtype dtype)
    : table_(std::move(table)), rotated_heads_(rotated_heads), heads_(heads), dtype_(dtype) {}

OperationPlan Rope::plan(const BatchShape& shape) const {
  const Dtype wide = accumulation_dtype(dtype_);
  const std::int64_t half = table_->head_dim() / 2;
  const std::int64_t rows = gpu::serves(shape.device, dtype_) ? 0 : shape.tokens;
  OperationPlan plan{{shape.tokens, heads_ * table_->head_dim()}, dtype_, {}};
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
  return traits;
}

void Rope::forward(const Batch& batch, const OperationViews& views) {
  rotate(batch, views.out, {views.buffers.begin(), views.buffers.begin() + 5}, 1.0);
}

void Rope::backward(const Batch& batch, const OperationViews& views) {
  rotate(batch, views.d_out, {views.buffers.begin() + 5, views.buffers.end()}, -1.0);
}

void Rope::rotate(const Batch& batch, const at::Tensor& x, const std::vector<at::Tensor>& scratch, double sign) {
  table_->grow(batch.max_length);
  if (gpu::serves(x)) {
    return gpu::rope(x, batch.positions, table_->cos(), table_->sin(), rotated_heads_, heads_, sign);
  }
  const std::int64_t half = table_->head_dim() / 2;
  at::Tensor cos_rows = scratch[0];
  at::Tensor sin_rows = scratch[1];
  at::Tensor a = scratch[2];
  at::Tensor b = scratch[3];
  at::Tensor c = scratch[4];
  at::index_select_out(cos_rows, table_->cos(), 0, batch.positions);
  at::index_select_out(sin_rows, table_->sin(), 0, batch.positions);
  const at::Tensor cos = cos_rows.unsqueeze(1);
  const at::Tensor sin = sin_rows.unsqueeze(1);
  const at::Tensor heads = x.view({x.size(0), heads_, table_->head_dim()}).narrow(1, 0, rotated_heads_);
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
