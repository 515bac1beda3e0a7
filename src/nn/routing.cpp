#include "qlora/nn/routing.h"

#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros.h>

#include "qlora/nn/rms_norm.h"

namespace qlora {

RouterBalance::RouterBalance(std::int64_t layers, std::int64_t experts, double weight, at::Device device, Dtype dtype)
    : weight_(weight),
      counts_(at::zeros({layers, experts}, at::TensorOptions().device(device).dtype(dtype))),
      probabilities_(at::zeros_like(counts_)) {}

void RouterBalance::note(std::int64_t layer, const at::Tensor& chosen, const at::Tensor& probabilities) {
  counts_[layer].copy_(chosen.sum(0));
  probabilities_[layer].copy_(probabilities.sum(0));
}

at::Tensor RouterBalance::factor(const Batch& batch) const {
  const double n = static_cast<double>(counts_.size(0) * std::max<std::int64_t>(batch.real_tokens(), 1));
  const at::Tensor share = (batch.targets >= 0).sum().to(counts_.scalar_type()).mul_(batch.loss_scale);
  return share.mul_(weight_ * static_cast<double>(counts_.size(1)) / (n * n));
}

at::Tensor RouterBalance::loss(const Batch& batch) const {
  return (counts_.sum(0) * probabilities_.sum(0)).sum() * factor(batch);
}

at::Tensor RouterBalance::slope(const Batch& batch) const {
  return counts_.sum(0) * factor(batch);
}

OperationPlan Routing::plan(const BatchShape& shape) const {
  const Dtype wide = accumulation_dtype(dtype_);
  // Probabilities, their largest with their places, and a product or two of them.
  const std::int64_t bytes = static_cast<std::int64_t>(c10::elementSize(wide)) * shape.tokens * spec_.experts;
  return {{shape.tokens, spec_.experts}, wide, {}, 4 * bytes};
}

OperationTraits Routing::traits() const {
  OperationTraits traits;
  traits.backward_reads_input = {!spec_.normalized || spec_.balance != nullptr};
  traits.backward_reads_output = true;
  return traits;
}

void Routing::forward(const Batch& batch, const OperationViews& v) {
  const at::Tensor probabilities = at::softmax(v.in[0], -1, v.out.scalar_type());
  const auto [largest, places] = at::topk(probabilities, spec_.per_token, -1);
  if (spec_.normalized) at::Tensor(largest).div_(largest.sum(-1, /*keepdim=*/true));
  const std::int64_t real = batch.real_tokens();
  at::Tensor out = v.out;
  out.zero_().scatter_(1, places, largest);
  out.slice(0, real).zero_();
  if (spec_.balance) spec_.balance->note(spec_.layer, out.slice(0, 0, real) != 0, probabilities.slice(0, 0, real));
}

// Of p = softmax(z): d_z = p (d_p - sum p d_p). Weights that are divided by their sum are the softmax of the logits
// chosen, so that they stand for p.
void Routing::backward(const Batch& batch, const OperationViews& v) {
  const auto through_softmax = [](const at::Tensor& p, const at::Tensor& d_p) {
    return p * (d_p - (p * d_p).sum(-1, /*keepdim=*/true));
  };
  at::Tensor probabilities;
  if (v.in[0].defined()) probabilities = at::softmax(v.in[0], -1, v.out.scalar_type());
  at::Tensor d_logits = through_softmax(spec_.normalized ? v.out : probabilities, v.d_out);
  if (spec_.balance) {
    const std::int64_t real = batch.real_tokens();
    d_logits.slice(0, 0, real).add_(through_softmax(probabilities.slice(0, 0, real), spec_.balance->slope(batch)));
  }
  at::Tensor d_in = v.d_in[0];
  if (v.accumulate[0]) {
    d_in.add_(d_logits);
  } else {
    d_in.copy_(d_logits);
  }
}

OperationPlan RouterLoss::plan(const BatchShape&) const {
  return {{1}, accumulation_dtype(dtype_), {}};
}

OperationTraits RouterLoss::traits() const {
  OperationTraits traits;
  traits.backward_reads_input = {false};
  traits.in_place = true;
  return traits;
}

void RouterLoss::forward(const Batch& batch, const OperationViews& v) {
  at::Tensor(v.out).add_(balance_->loss(batch));
}

}  // namespace qlora
