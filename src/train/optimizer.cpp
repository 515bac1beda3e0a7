#include "qlora/train/optimizer.h"

#include <algorithm>
#include <array>
#include <cmath>

#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/train/adamw_8bit.h"
#include "qlora/train/adamw_cuda.h"

namespace qlora {
namespace {

std::int64_t tiles_of(std::int64_t size, std::int64_t tile) {
  return (size + tile - 1) / tile;
}

std::int64_t tile_count(const std::vector<AdamWSegment>& segments, std::int64_t tile) {
  return segments.empty() ? 0 : segments.back().first_tile + tiles_of(segments.back().size, tile);
}

// fp32 moments: neighbours join where they may. 8-bit ones stay apart, since blocks begin anew with each tensor.
void add_segment(std::vector<AdamWSegment>& segments, AdamWSegment next, std::int64_t tile, bool join) {
  if (!segments.empty()) {
    AdamWSegment& last = segments.back();
    if (join && last.begin + last.size == next.begin && last.rate == next.rate && last.decay == next.decay) {
      last.size += next.size;
      return;
    }
    next.first_tile = tile_count(segments, tile);
  }
  segments.push_back(next);
}

AdamWMoments lay_out(const ParameterSet& parameters, const AdamWSettings& settings) {
  AdamWMoments m;
  for (const ParameterInfo& info : parameters.infos()) {
    const std::int64_t size = info.size();
    if (size == 0) continue;
    const bool narrow = settings.eight_bit && size >= kSmallest8bitTensor;
    std::int64_t& filled = narrow ? m.narrow_size : m.wide_size;
    // As PEFT's LoRA+: what is a B, or a vector of an adapter.
    const bool lora_b = info.name.ends_with(".lora_B.weight") || info.name.ends_with(".lora_magnitude_vector");
    const AdamWSegment segment{info.offset,
                               size,
                               filled,
                               0,
                               static_cast<float>(lora_b ? settings.lora_b_rate : 1.0),
                               static_cast<float>(info.decays ? settings.weight_decay : 0.0)};
    add_segment(narrow ? m.narrow : m.wide, segment, narrow ? kAdamW8bitTile : kAdamWTile, !narrow);
    filled += size;
  }
  return m;
}

void allocate(AdamWMoments& m, const AdamWSettings& settings, const at::Tensor& values) {
  const auto floats = values.options();
  const auto pages = [&](const at::TensorOptions& options, bool paged) {
    return paged && values.is_cuda() ? options.device(at::kCPU).pinned_memory(true) : options;
  };
  // Of an 8-bit run the few fp32 moments stay where they are.
  const auto wide = pages(floats, settings.paged && !settings.eight_bit);
  const auto narrow = pages(floats.dtype(at::kByte), settings.paged);
  const std::int64_t tiles = tile_count(m.narrow, kAdamW8bitTile);
  m.first = at::zeros({m.wide_size}, wide);
  m.second = at::zeros({m.wide_size}, wide);
  m.first_codes = at::zeros({m.narrow_size}, narrow);
  m.second_codes = at::zeros({m.narrow_size}, narrow);
  m.first_absmax = at::zeros({tiles}, floats);
  m.second_absmax = at::zeros({tiles}, floats);
}

// The step's numbers where step t takes `learning_rate`.
AdamWScalars scalars_of(const AdamWSettings& s, double learning_rate, std::int64_t t) {
  const auto steps = static_cast<double>(t);
  return {static_cast<float>(learning_rate),
          static_cast<float>(s.beta1),
          static_cast<float>(s.beta2),
          static_cast<float>(s.epsilon),
          static_cast<float>(1.0 - s.beta1),
          static_cast<float>(1.0 - s.beta2),
          static_cast<float>(1.0 - std::pow(s.beta1, steps)),
          static_cast<float>(std::sqrt(1.0 - std::pow(s.beta2, steps)))};
}

}  // namespace

AdamWSettings adamw_settings(const TrainOptions& options) {
  const Optimizer optim = options.optim;
  return {options.adam_beta1,
          options.adam_beta2,
          options.adam_epsilon,
          options.weight_decay,
          optim == Optimizer::kAdamw8bit || optim == Optimizer::kPagedAdamw8bit,
          optim == Optimizer::kPagedAdamw32bit || optim == Optimizer::kPagedAdamw8bit,
          options.loraplus_lr_ratio.value_or(1.0)};
}

OptimizerBytes optimizer_bytes(const ParameterSet& parameters, const AdamWSettings& settings, at::Device device) {
  const AdamWMoments m = lay_out(parameters, settings);
  const auto element = static_cast<std::int64_t>(parameters.values().element_size());
  const std::int64_t wide = 2 * element * m.wide_size;
  const std::int64_t narrow = 2 * m.narrow_size;
  const std::int64_t scales = 2 * element * tile_count(m.narrow, kAdamW8bitTile);
  if (!settings.paged || device.is_cpu()) return {wide + narrow + scales, 0};
  const std::int64_t buffers = 2 * 2 * kPagedChunk * (settings.eight_bit ? 1 : element);
  const std::int64_t paged = settings.eight_bit ? narrow : wide;
  return {wide + narrow + scales - paged + std::min(buffers, 2 * paged), paged};
}

AdamW::AdamW(ParameterSet& parameters, AdamWSettings settings)
    : parameters_(parameters), settings_(settings), moments_(lay_out(parameters, settings)) {
  const at::Tensor& values = parameters_.values();
  TORCH_CHECK(!settings.eight_bit || values.scalar_type() == at::kFloat, "8-bit moments are of float32 parameters");
  allocate(moments_, settings_, values);
  if (values.is_cuda()) device_ = make_cuda_adamw(parameters_, moments_);
}

AdamW::~AdamW() = default;

at::Tensor AdamW::step(double learning_rate, double max_norm, const at::Tensor& loss) {
  ++steps_;
  const AdamWScalars scalars = scalars_of(settings_, learning_rate, steps_);
  if (device_) return device_->step(scalars, max_norm, loss, steps_);
  const double norm = clip_gradients(parameters_, max_norm);
  const bool finite = std::isfinite(norm) && (!loss.defined() || std::isfinite(loss.item<double>()));
  if (!finite && failed_step_ == 0) failed_step_ = steps_;
  if (failed_step_ == 0) {
    update_wide(learning_rate);
    update_narrow(as_bitsandbytes(scalars));
    parameters_.refresh_compute();
  }
  return at::scalar_tensor(norm, at::kDouble);
}

void AdamW::update_wide(double learning_rate) {
  const at::Tensor count = at::full({}, static_cast<double>(steps_), parameters_.values().options().dtype(at::kFloat));
  for (const AdamWSegment& s : moments_.wide) {
    const auto part = [&](const at::Tensor& flat, std::int64_t at) { return std::array{flat.narrow(0, at, s.size)}; };
    at::_fused_adamw_(part(parameters_.values(), s.begin), part(parameters_.grads(), s.begin),
                      part(moments_.first, s.state), part(moments_.second, s.state), {}, std::array{count},
                      s.rate == 1.0F ? learning_rate : learning_rate * settings_.lora_b_rate, settings_.beta1,
                      settings_.beta2, s.decay == 0.0F ? 0.0 : settings_.weight_decay, settings_.epsilon,
                      /*amsgrad=*/false, /*maximize=*/false);
  }
}

void AdamW::update_narrow(const AdamWScalars& scalars) {
  for (const AdamWSegment& s : moments_.narrow) {
    const auto* gradients = parameters_.grads().const_data_ptr<float>();
    const AdamW8bitTensor tensor{s.size,
                                 parameters_.values().mutable_data_ptr<float>() + s.begin,
                                 gradients + s.begin,
                                 moments_.first_codes.mutable_data_ptr<std::uint8_t>() + s.state,
                                 moments_.second_codes.mutable_data_ptr<std::uint8_t>() + s.state,
                                 moments_.first_absmax.mutable_data_ptr<float>() + s.first_tile,
                                 moments_.second_absmax.mutable_data_ptr<float>() + s.first_tile};
    adamw_8bit_step(tensor, scalars, scalars.learning_rate * s.rate, s.decay);
  }
}

void AdamW::forget_failure(std::int64_t steps) {
  steps_ = steps;
  failed_step_ = 0;
  if (device_) device_->forget_failure();
}

std::int64_t AdamW::failed_step() const {
  return device_ ? device_->failed_step() : failed_step_;
}

std::map<std::string, at::Tensor> AdamW::state() const {
  if (device_) device_->wait();
  std::map<std::string, at::Tensor> state{{"exp_avg", moments_.first}, {"exp_avg_sq", moments_.second}};
  if (settings_.eight_bit) {
    state.emplace("exp_avg_codes", moments_.first_codes);
    state.emplace("exp_avg_absmax", moments_.first_absmax);
    state.emplace("exp_avg_sq_codes", moments_.second_codes);
    state.emplace("exp_avg_sq_absmax", moments_.second_absmax);
  }
  return state;
}

void AdamW::restore(const std::map<std::string, at::Tensor>& state, std::int64_t steps) {
  for (auto& [name, own] : this->state()) {
    const auto saved = state.find(name);
    if (saved == state.end() || saved->second.sizes() != own.sizes()) {
      throw DataError(fmt::format("the optimizer's state '{}' is missing or of another size than this run's", name));
    }
    own.copy_(saved->second);
  }
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
