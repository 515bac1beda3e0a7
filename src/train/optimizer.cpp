#include "qlora/train/optimizer.h"

#include <array>

#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/zeros_like.h>

namespace qlora {

AdamW::AdamW(ParameterSet& parameters, AdamWSettings settings) : parameters_(parameters), settings_(settings) {
  for (const ParameterInfo& info : parameters_.infos()) {
    if (!segments_.empty() && segments_.back().decays == info.decays) {
      segments_.back().size += info.size();
    } else {
      segments_.push_back({info.offset, info.size(), info.decays});
    }
  }
  first_ = at::zeros_like(parameters_.values());
  second_ = at::zeros_like(parameters_.values());
}

void AdamW::step(double learning_rate) {
  ++steps_;
  const at::Tensor count = at::full({}, static_cast<double>(steps_), parameters_.values().options().dtype(at::kFloat));
  for (const Segment& s : segments_) {
    const auto part = [&](const at::Tensor& flat) { return std::array{flat.narrow(0, s.begin, s.size)}; };
    at::_fused_adamw_(part(parameters_.values()), part(parameters_.grads()), part(first_), part(second_), {},
                      std::array{count}, learning_rate, settings_.beta1, settings_.beta2,
                      s.decays ? settings_.weight_decay : 0.0, settings_.epsilon, /*amsgrad=*/false,
                      /*maximize=*/false);
  }
  parameters_.refresh_compute();
}

void AdamW::restore(const at::Tensor& first, const at::Tensor& second, std::int64_t steps) {
  first_.copy_(first);
  second_.copy_(second);
  steps_ = steps;
}

double clip_gradients(ParameterSet& parameters, double max_norm) {
  at::Tensor grads = parameters.grads();
  const double norm = at::linalg_vector_norm(grads, 2, std::nullopt, false, at::kDouble).item<double>();
  const double factor = max_norm / (norm + 1e-6);
  if (max_norm > 0.0 && factor < 1.0) grads.mul_(factor);
  return norm;
}

}  // namespace qlora
