#include "qlora/adapters/attach.h"

#include <algorithm>
#include <map>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "qlora/core/error.h"
#include "qlora/models/architecture.h"
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
  config.use_dora = options.use_dora;
  config.modules_to_save = options.modules_to_save;
  if (options.init_lora_weights == LoraInit::kGaussian) config.init_lora_weights = "gaussian";
  return config;
}

AdaptableModules adaptable_modules(const ModelConfig& model) {
  const ModuleNames names = module_names(model);
  AdaptableModules modules{{names.embedding}, {names.embedding, names.head}};
  modules.all.insert(modules.all.end(), names.linears.begin(), names.linears.end());
  modules.all.push_back(names.head);
  return modules;
}

namespace {

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) {
    text.replace(at, from.size(), to);
  }
  return text;
}

std::string last_part(const std::string& module) {
  return module.substr(module.rfind('.') + 1);
}

std::set<std::string> last_parts(const std::vector<std::string>& modules) {
  std::set<std::string> parts;
  for (const std::string& module : modules) parts.insert(last_part(module));
  return parts;
}

void check_modules_to_save(const LoraConfig& config, const ModelConfig& model) {
  const ModuleNames names = module_names(model);
  std::vector<std::string> whole = names.norms;
  whole.insert(whole.end(), names.routers.begin(), names.routers.end());
  whole.insert(whole.end(), {names.embedding, names.head});
  for (const std::string& name : config.modules_to_save) {
    const auto ends = [&](const std::string& module) { return module.ends_with(name); };
    const auto not_whole = [&](const std::string& module) { return ends(module) && !contains(names.routers, module); };
    if (std::any_of(names.linears.begin(), names.linears.end(), not_whole)) {
      throw UsageError(
          fmt::format("modules_to_save: '{}' names linears of the blocks, which are not trained whole yet", name));
    }
    if (std::any_of(whole.begin(), whole.end(), ends)) continue;
    throw UsageError(
        fmt::format("modules_to_save: '{}' is no module of this model that is trained whole; there are: {}", name,
                    fmt::join(last_parts(whole), ", ")));
  }
}

}  // namespace

LoraAdapter load_lora_adapter(const std::filesystem::path& folder, const ModelConfig& model) {
  LoraAdapter adapter = load_lora_adapter(folder);
  for (const auto& [from, to] : find_architecture(model.model_type, "config.json").renamed) {
    for (LoraMatrices& matrices : adapter.matrices) matrices.module = replaced(matrices.module, from, to);
    for (SavedWeight& saved : adapter.saved) saved.name = replaced(saved.name, from, to);
    for (std::string& name : adapter.config.target_modules.names) name = replaced(name, from, to);
  }
  return adapter;
}

bool check_expert_adapters(const LoraConfig& config, const ModelConfig& model) {
  const ModuleNames names = module_names(model);
  const std::vector<std::string> routers = lora_targets(config, names.routers, {});
  const std::vector<std::string> experts = lora_targets(config, names.experts, {});
  const bool renamed = !find_architecture(model.model_type, "config.json").renamed.empty();
  const auto saved = [&](const std::string& module) { return saves_module(config, module); };
  if (renamed && std::any_of(names.routers.begin(), names.routers.end(), saved)) {
    throw UsageError(
        "modules_to_save: routers of this model are not trained whole yet: PEFT reads them by other names; adapters on "
        "them it reads");
  }
  if (routers.empty() && experts.empty()) return false;
  const auto refuse = [](const std::string& key, const std::string& what) {
    throw UsageError(
        fmt::format("{}: {}: PEFT has the experts of a layer as one parameter and could not read such an adapter; "
                    "lora_target_modules may leave experts and routers out",
                    key, what));
  };
  if (config.lora_dropout > 0.0) refuse("lora_dropout", "adapters on experts and routers have none; set it to 0");
  if (config.use_dora) refuse("use_dora", "adapters on experts and routers have no magnitudes");
  if (!experts.empty() && config.use_rslora) refuse("use_rslora", "adapters on experts are scaled by alpha / r");
  const std::set<std::string> parts = last_parts(experts);
  for (const std::string& module : experts) {
    const auto r = static_cast<double>(config.r);
    if (lora_rank(config, module) == config.r && lora_scale(config, module) == config.lora_alpha / r) continue;
    refuse("rank_pattern", fmt::format("'{}' has a rank or alpha of its own", module));
  }
  const std::set<std::string> targeted(experts.begin(), experts.end());
  for (const std::string& module : names.experts) {
    if (parts.contains(last_part(module)) && !targeted.contains(module))
      refuse("lora_target_modules", fmt::format("'{}' carries none, other experts do", module));
  }
  if (parts.contains("gate_proj") != parts.contains("up_proj") || parts.contains("w1") != parts.contains("w3"))
    refuse("lora_target_modules", "an expert's gate and up carry adapters together");
  return true;
}

TrainingPlan make_training_plan(const LoraConfig& config, const ModelConfig& model, std::uint64_t seed) {
  const AdaptableModules modules = adaptable_modules(model);
  const std::vector<std::string> targets = lora_targets(config, modules.all, modules.apart);
  if (targets.empty()) {
    throw UsageError(fmt::format("lora_target_modules: names no module of this model; it has {}",
                                 fmt::join(last_parts(modules.all), ", ")));
  }
  check_modules_to_save(config, model);
  const ModuleNames names = module_names(model);
  const std::set<std::string> experts(names.experts.begin(), names.experts.end());
  std::map<std::string, LoraSettings> settings;
  for (const std::string& module : targets) {
    const bool plain = experts.contains(module) || contains(names.routers, module);  // as PEFT has them
    if (config.use_dora && (plain || contains(modules.apart, module))) {
      throw UsageError(fmt::format("use_dora: not supported yet on '{}'", module));
    }
    settings[module] = {lora_rank(config, module), lora_scale(config, module), plain ? 0.0 : config.lora_dropout,
                        config.use_dora};
  }
  TrainingPlan plan;
  plan.whole = [config](const std::string& module) { return saves_module(config, module); };
  plan.seed = seed;
  plan.lora = [settings = std::move(settings)](const std::string& linear) -> std::optional<LoraSettings> {
    const auto found = settings.find(linear);
    return found == settings.end() ? std::nullopt : std::optional(found->second);
  };
  return plan;
}

namespace {

const std::string& name_of(const Decoder& decoder, ParameterSet::Id id) {
  return decoder.parameters().infos()[static_cast<std::size_t>(id)].name;
}

}  // namespace

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
    if (matrices.magnitude) copy(place->second->magnitude, *matrices.magnitude, "lora_magnitude_vector");
    places.erase(place);
  }
  std::set<std::string> whole;
  for (const ParameterSet::Id id : decoder.whole()) whole.insert(name_of(decoder, id));
  for (const SavedWeight& saved : adapter.saved) {
    if (whole.erase(saved.name) == 0) {
      throw DataError(fmt::format("adapter tensor '{}': the base model has no such weight", saved.name));
    }
    decoder.put_parameter(saved.name, to_tensor(saved.values, saved.name));
  }
  if (!whole.empty()) {
    throw DataError(fmt::format("adapter: has no '{}', which its modules_to_save names", *whole.begin()));
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
  std::vector<SavedWeight> saved;
  const auto view = [&](ParameterSet::Id id) {
    kept.push_back(decoder.parameters().value(id).to(at::kCPU, at::kFloat).contiguous());
    return to_host_tensor(kept.back());
  };
  for (const AdapterPlace& place : decoder.adapters()) {
    matrices.push_back({place.linear, view(place.a), view(place.b), {}, place.embedding});
    if (place.magnitude >= 0) matrices.back().magnitude = view(place.magnitude);
  }
  for (const ParameterSet::Id id : decoder.whole()) saved.push_back({name_of(decoder, id), view(id)});
  save_lora_adapter(folder, config, matrices, saved, record);
}

}  // namespace qlora
