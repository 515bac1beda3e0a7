#include "qlora/adapters/attach.h"

#include <map>

#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/weights/load.h"

namespace qlora {

LoraConfig make_lora_config(const AdapterOptions& options, const std::string& base_model) {
  LoraConfig config;
  config.base_model_name_or_path = base_model;
  config.r = options.lora_r;
  config.lora_alpha = options.lora_alpha;
  config.lora_dropout = options.lora_dropout;
  config.target_modules = options.lora_target_modules;
  config.layers_to_transform = options.layers_to_transform;
  config.rank_pattern = options.rank_pattern;
  config.alpha_pattern = options.alpha_pattern;
  config.use_rslora = options.use_rslora;
  if (options.init_lora_weights == LoraInit::kGaussian) config.init_lora_weights = "gaussian";
  return config;
}

TrainingPlan make_training_plan(const LoraConfig& config, const ModelConfig& model, std::uint64_t seed) {
  const std::vector<std::string> targets = lora_targets(config, linear_names(model), "lm_head");
  if (targets.empty()) throw UsageError("lora_target_modules: names no linear of this model");
  std::map<std::string, LoraSettings> settings;
  for (const std::string& module : targets) {
    settings[module] = {lora_rank(config, module), lora_scale(config, module), config.lora_dropout};
  }
  TrainingPlan plan;
  plan.seed = seed;
  plan.lora = [settings = std::move(settings)](const std::string& linear) -> std::optional<LoraSettings> {
    const auto found = settings.find(linear);
    return found == settings.end() ? std::nullopt : std::optional(found->second);
  };
  return plan;
}

void put_adapter(const LoraAdapter& adapter, Decoder& decoder) {
  std::map<std::string, const AdapterPlace*> places;
  for (const AdapterPlace& place : decoder.adapters()) places[place.linear] = &place;
  for (const LoraMatrices& matrices : adapter.matrices) {
    const auto place = places.find(matrices.module);
    if (place == places.end()) {
      throw DataError(fmt::format(
          "adapter module '{}': the base model has no such linear, or the adapter's config does not target it",
          matrices.module));
    }
    const auto copy = [&](ParameterSet::Id id, const HostTensor& tensor, const char* which) {
      at::Tensor parameter = decoder.parameters().value(id);
      if (parameter.sizes().vec() != tensor.shape) {
        throw DataError(
            fmt::format("adapter tensor '{}.{}': has shape {}, this base needs {}: it was made for another base",
                        matrices.module, which, shape_text(tensor.shape), shape_text(parameter.sizes().vec())));
      }
      parameter.copy_(to_tensor(tensor, matrices.module));
    };
    copy(place->second->a, matrices.a, "lora_A");
    copy(place->second->b, matrices.b, "lora_B");
    places.erase(place);
  }
  if (!places.empty()) {
    throw DataError(fmt::format("adapter: has no weights for '{}', which its config targets", places.begin()->first));
  }
  decoder.parameters().refresh_compute();
}

void save_adapter(Decoder& decoder, const LoraConfig& config, const std::optional<AdapterRecord>& record,
                  const std::filesystem::path& folder) {
  std::vector<at::Tensor> kept;  // the bytes that the views below look at
  std::vector<LoraMatrices> matrices;
  const auto view = [&](ParameterSet::Id id) {
    kept.push_back(decoder.parameters().value(id).to(at::kCPU, at::kFloat).contiguous());
    return to_host_tensor(kept.back());
  };
  for (const AdapterPlace& place : decoder.adapters()) matrices.push_back({place.linear, view(place.a), view(place.b)});
  save_lora_adapter(folder, config, matrices, record);
}

}  // namespace qlora
