#include "qlora/models/decoder.h"

#include <algorithm>
#include <cmath>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/models/architecture.h"

namespace qlora {
namespace {

at::Generator generator(std::uint64_t seed) {
  return at::detail::createCPUGenerator(seed);
}

}  // namespace

Decoder::Decoder(ModelConfig config, std::shared_ptr<WeightStore> store, const TrainingPlan& plan)
    : config_(std::move(config)), store_(std::move(store)) {
  DecoderBuilder builder(*this, plan);
  find_architecture(config_.model_type, "config.json").build(builder);
  parameters_.allocate(store_->tensor_device(), store_->dtype());
}

const std::vector<Block>& Decoder::blocks(HeadKind head) const {
  switch (head) {
    case HeadKind::kLoss:
      return loss_;
    case HeadKind::kNll:
      return nll_;
    default:
      return logits_;
  }
}

std::vector<CacheLayer> Decoder::cache_layers() const {
  std::vector<CacheLayer> layers;
  for (std::int64_t i = 0; i < config_.layers; ++i) {
    const bool convolves = config_.kind(i) == LayerKind::kConvolution;
    layers.push_back(convolves ? CacheLayer{0, 0, config_.convolution_size - 1, config_.hidden}
                               : CacheLayer{config_.kv_heads, config_.head_dim, 0, 0});
  }
  return layers;
}

std::int64_t Decoder::movable_embedding_bytes() const {
  const std::string table = modules_.embedding + ".weight";
  const bool is_head = config_.tied_embeddings && !starts_tied_head();
  if (!store_->has(table) || parameters_.find(table) || is_head) return 0;
  return element_count(store_->member(table).shape).value_or(0) * static_cast<std::int64_t>(c10::elementSize(dtype()));
}

void Decoder::move_embedding_to_host() {
  store_->move_to_host(modules_.embedding + ".weight");
}

// Beside a tied embedding a head that is trained by itself starts from the same values.
bool Decoder::wants(const std::string& name) const {
  return parameters_.find(name) || store_->has(name) || (name == modules_.embedding + ".weight" && starts_tied_head());
}

bool Decoder::starts_tied_head() const {
  return config_.tied_embeddings && parameters_.find(modules_.head + ".weight");
}

void Decoder::put(const std::string& name, const at::Tensor& values) {
  // A tied weight may be both: frozen in one place, trained in the other.
  if (name == modules_.embedding + ".weight" && starts_tied_head()) put_parameter(modules_.head + ".weight", values);
  if (parameters_.find(name)) put_parameter(name, values);
  if (store_->has(name) || !wants(name)) store_->put(name, values);  // which refuses a name that is nowhere
}

void Decoder::put_parameter(const std::string& name, const at::Tensor& values) {
  const auto id = parameters_.find(name);
  at::Tensor parameter = parameters_.value(*id);
  if (values.sizes() != parameter.sizes()) {
    throw DataError(fmt::format("tensor '{}': has shape {}, the model's config wants {}", name,
                                shape_text(values.sizes().vec()), shape_text(parameter.sizes().vec())));
  }
  if (!at::isfinite(values).all().item<bool>()) throw DataError(fmt::format("tensor '{}': holds NaN or Inf", name));
  parameter.copy_(values);
  filled_.push_back(name);
}

void Decoder::put(const std::string& name, const Nf4Tensor& codes) {
  if (!parameters_.find(name)) return store_->put(name, codes);
  at::Tensor values = at::empty(codes.shape, at::kFloat);
  nf4_dequantize(codes.view(), ElementType::kF32, values.mutable_data_ptr());
  put(name, values);
}

std::vector<std::string> Decoder::missing() const {
  std::vector<std::string> names = store_->missing();
  const auto check = [&](const ParameterInfo& info) {
    if (std::find(filled_.begin(), filled_.end(), info.name) == filled_.end()) names.push_back(info.name);
  };
  for (const ParameterSet::Id id : whole_) check(parameters_.infos()[static_cast<std::size_t>(id)]);
  if (!adapters_.empty() || !whole_.empty()) return names;
  for (const ParameterInfo& info : parameters_.infos()) check(info);
  return names;
}

void Decoder::initialize_adapters(std::uint64_t seed, bool gaussian) {
  at::Generator random = generator(seed);
  for (const AdapterPlace& place : adapters_) {
    if (place.embedding) {
      at::Tensor b = at::empty({place.out, place.settings.rank}, at::kFloat);
      parameters_.value(place.a).zero_();
      parameters_.value(place.b).copy_(b.normal_(0.0, 1.0, random));
      continue;
    }
    at::Tensor a = at::empty({place.settings.rank, place.in}, at::kFloat);
    if (gaussian) {
      a.normal_(0.0, 1.0 / static_cast<double>(place.settings.rank), random);
    } else {
      const double bound = 1.0 / std::sqrt(static_cast<double>(place.in));
      a.uniform_(-bound, bound, random);
    }
    parameters_.value(place.a).copy_(a);
    parameters_.value(place.b).zero_();
    if (place.magnitude >= 0) {
      const at::Tensor weight = store_->dequantized(place.linear + ".weight");
      parameters_.value(place.magnitude).copy_(at::linalg_vector_norm(weight, 2, at::IntArrayRef{1}));
    }
  }
  parameters_.refresh_compute();
}

void Decoder::initialize_weights(std::uint64_t seed) {
  at::Generator random = generator(seed);
  for (std::size_t i = 0; i < parameters_.infos().size(); ++i) {
    const ParameterInfo& info = parameters_.infos()[i];
    at::Tensor value = parameters_.value(static_cast<ParameterSet::Id>(i));
    if (info.shape.size() > 1) {
      at::Tensor values = at::empty(info.shape, at::kFloat);
      value.copy_(values.normal_(0.0, config_.initializer_range, random));
    } else {
      value.fill_(info.name.ends_with(".bias") ? 0.0 : 1.0 - config_.norm_offset);
    }
    filled_.push_back(info.name);
  }
  parameters_.refresh_compute();
}

ModuleNames module_names(const ModelConfig& config) {
  const auto nowhere = std::make_shared<WeightStore>(at::kCPU, at::kFloat, WeightPolicy{.planned = true});
  return Decoder(config, nowhere, TrainingPlan{}).modules();
}

std::vector<std::string> linear_names(const ModelConfig& config) {
  return module_names(config).linears;
}

}  // namespace qlora
