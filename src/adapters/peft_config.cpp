#include "qlora/adapters/peft_config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/core/quote.h"

namespace qlora {
namespace {

struct Feature {
  std::string_view key;
  std::string_view what;
};

// Keys that change what the adapter computes when they are set.
constexpr std::array<Feature, 14> kNotBuilt = {{
    {"lora_bias", "biases on B"},
    {"fan_in_fan_out", "transposed weights"},
    {"layer_replication", "replicated layers"},
    {"trainable_token_indices", "trained tokens"},
    {"use_qalora", "QALoRA"},
    {"use_bdlora", "block-diagonal LoRA"},
    {"alora_invocation_tokens", "activated LoRA"},
    {"arrow_config", "Arrow"},
    {"kasa_config", "KaSA"},
    {"monteclora_config", "MonteCLoRA"},
    {"velora_config", "VeLoRA"},
    {"lora_ga_config", "LoRA-GA"},
    {"megatron_config", "Megatron layers"},
    {"ensure_weight_tying", "tied adapters"},
}};

// Known, and without a part in what a saved adapter computes.
constexpr std::array<std::string_view, 8> kWithoutEffect = {"auto_mapping",   "corda_config",     "eva_config",
                                                            "inference_mode", "loftq_config",     "megatron_core",
                                                            "peft_version",   "qalora_group_size"};

bool is_off(const Json& value) {
  return value.is_null() || (value.is_boolean() && !value.get<bool>()) ||
         ((value.is_string() || value.is_array() || value.is_object()) && value.empty());
}

// Reads keys out of the object one by one and remembers which are left.
class ConfigReader {
 public:
  ConfigReader(const Json& json, const std::string& origin) : left_(json), origin_(origin) {}

  // The value, or null where the key is missing.
  Json take(const std::string& key) {
    const auto at = left_.find(key);
    if (at == left_.end()) return nullptr;
    Json value = *at;
    left_.erase(key);
    return value;
  }

  std::string take_string(const std::string& key, const std::string& otherwise) {
    const Json value = take(key);
    if (value.is_null()) return otherwise;
    if (!value.is_string()) wrong(key, "a string");
    return value.get<std::string>();
  }

  double take_number(const std::string& key, double otherwise) {
    const Json value = take(key);
    return value.is_null() ? otherwise : number(key, value);
  }

  std::int64_t take_positive(const std::string& key, std::int64_t otherwise) {
    const Json value = take(key);
    return value.is_null() ? otherwise : positive(key, value);
  }

  bool take_bool(const std::string& key) {
    const Json value = take(key);
    if (value.is_null()) return false;
    if (!value.is_boolean()) wrong(key, "true or false");
    return value.get<bool>();
  }

  // A list of strings; a single string is a list of one.
  std::vector<std::string> take_strings(const std::string& key) {
    const Json value = take(key);
    std::vector<std::string> strings;
    if (value.is_null()) return strings;
    if (value.is_string()) return {value.get<std::string>()};
    if (!value.is_array()) wrong(key, "a list of names");
    for (const Json& item : value) {
      if (!item.is_string()) wrong(key, "a list of names");
      strings.push_back(item.get<std::string>());
    }
    return strings;
  }

  TargetModules take_modules(const std::string& key) {
    TargetModules modules;
    const auto at = left_.find(key);
    if (at != left_.end() && at->is_string()) {
      modules.regex = take_string(key, "");
      if (modules.regex == "all-linear") modules.regex.clear();
    } else {
      modules.names = take_strings(key);
    }
    return modules;
  }

  std::vector<std::int64_t> take_layers(const std::string& key) {
    const Json value = take(key);
    std::vector<std::int64_t> layers;
    if (value.is_null()) return layers;
    const Json list = value.is_array() ? value : Json::array({value});
    for (const Json& item : list) {
      if (!item.is_number_unsigned()) wrong(key, "a layer's index or a list of them");
      layers.push_back(item.get<std::int64_t>());
    }
    return layers;
  }

  template <class T, class Read>
  std::vector<std::pair<std::string, T>> take_pattern(const std::string& key, Read read) {
    const Json value = take(key);
    std::vector<std::pair<std::string, T>> pattern;
    if (value.is_null()) return pattern;
    if (!value.is_object()) wrong(key, "an object of module names and numbers");
    for (const auto& [name, number] : value.items()) pattern.emplace_back(name, read(key, number));
    return pattern;
  }

  double number(const std::string& key, const Json& value) const {
    if (!value.is_number()) wrong(key, "a number");
    return value.get<double>();
  }

  std::int64_t positive(const std::string& key, const Json& value) const {
    if (!value.is_number_integer() || value.get<std::int64_t>() <= 0) wrong(key, "a whole number above 0");
    return value.get<std::int64_t>();
  }

  [[noreturn]] void wrong(const std::string& key, const std::string& expected) const {
    throw DataError(fmt::format("{}: {} must be {}", origin_, quote_name(key), expected));
  }

  const std::string& origin() const { return origin_; }
  const Json& left() const { return left_; }

 private:
  Json left_;
  const std::string& origin_;
};

void refuse_what_is_not_built(ConfigReader& reader) {
  const auto refuse = [&](const std::string& feature, const std::string& key) {
    throw UsageError(fmt::format("{}: {} ({}) is not supported yet", reader.origin(), feature, quote_name(key)));
  };
  for (const Feature& feature : kNotBuilt) {
    const std::string key(feature.key);
    if (!is_off(reader.take(key))) refuse(std::string(feature.what), key);
  }
  const std::string bias = reader.take_string("bias", "none");
  if (bias != "none") refuse("training biases", "bias");
}

// These start from a base that they change: without that change the adapter means nothing.
void check_init(const Json& init, const std::string& origin) {
  if (!init.is_string()) return;
  const std::string name = init.get<std::string>();
  for (const std::string_view changing : {"pissa", "olora", "corda", "loftq", "lora_ga"}) {
    if (name.starts_with(changing)) {
      throw UsageError(fmt::format(
          "{}: an adapter initialised by {} belongs to a changed base, which is not supported yet; convert it with "
          "PEFT (save_pretrained with path_initial_model_for_weight_conversion)",
          origin, quote_name(name)));
    }
  }
}

// What transformers 5 has as parameters of a mixture of experts; a module's weight counts as the module.
void check_target_parameters(const LoraConfig& config, const std::string& origin) {
  for (const std::string& name : config.target_parameters) {
    const std::string last = name.substr(name.rfind('.') + 1);
    if (last == "gate_up_proj" || last == "down_proj" || last == "weight") continue;
    throw UsageError(fmt::format("{}: an adapter on the bare parameter {} ('target_parameters') is not supported yet",
                                 origin, quote_name(name)));
  }
}

template <class Pairs>
Json pattern_json(const Pairs& pairs) {
  Json json = Json::object();
  for (const auto& [name, value] : pairs) json[name] = value;
  return json;
}

template <class List>
Json list_or_null(const List& list) {
  return list.empty() ? Json(nullptr) : Json(list);
}

Json modules_json(const TargetModules& modules) {
  if (!modules.regex.empty()) return modules.regex;
  return modules.names.empty() ? Json("all-linear") : Json(modules.names);
}

Json text_or_null(const std::string& text) {
  return text.empty() ? Json(nullptr) : Json(text);
}

// 16 rather than 16.0: some readers take alpha for an integer.
Json number_json(double value) {
  const auto whole = static_cast<std::int64_t>(value);
  return static_cast<double>(whole) == value ? Json(whole) : Json(value);
}

}  // namespace

LoraConfig parse_lora_config(const Json& json, const std::string& origin) {
  if (!json.is_object()) throw DataError(fmt::format("{}: is no JSON object", origin));
  ConfigReader reader(json, origin);
  const std::string type = reader.take_string("peft_type", "");
  if (type.empty()) throw DataError(fmt::format("{}: 'peft_type' is missing: it is no PEFT adapter", origin));
  if (type != "LORA")
    throw UsageError(fmt::format("{}: adapters of type {} are not supported yet", origin, quote_name(type)));
  refuse_what_is_not_built(reader);

  LoraConfig config;
  config.base_model_name_or_path = reader.take_string("base_model_name_or_path", "");
  config.revision = reader.take_string("revision", "");
  config.task_type = reader.take_string("task_type", "");
  config.r = reader.take_positive("r", config.r);
  config.lora_alpha = reader.take_number("lora_alpha", config.lora_alpha);
  config.lora_dropout = reader.take_number("lora_dropout", config.lora_dropout);
  if (config.lora_dropout < 0.0 || config.lora_dropout >= 1.0) reader.wrong("lora_dropout", "in [0, 1)");
  if (!reader.left().contains("target_modules"))
    reader.wrong("target_modules", "a list of names or a regular expression");
  config.target_modules = reader.take_modules("target_modules");
  config.target_parameters = reader.take_strings("target_parameters");
  check_target_parameters(config, origin);
  config.exclude_modules = reader.take_modules("exclude_modules");
  config.layers_to_transform = reader.take_layers("layers_to_transform");
  config.layers_pattern = reader.take_strings("layers_pattern");
  config.rank_pattern = reader.take_pattern<std::int64_t>(
      "rank_pattern", [&](const std::string& key, const Json& value) { return reader.positive(key, value); });
  config.alpha_pattern = reader.take_pattern<double>(
      "alpha_pattern", [&](const std::string& key, const Json& value) { return reader.number(key, value); });
  config.use_rslora = reader.take_bool("use_rslora");
  config.use_dora = reader.take_bool("use_dora");
  config.modules_to_save = reader.take_strings("modules_to_save");
  if (reader.left().contains("init_lora_weights")) config.init_lora_weights = reader.take("init_lora_weights");
  check_init(config.init_lora_weights, origin);

  for (const std::string_view key : kWithoutEffect) reader.take(std::string(key));
  config.extra = reader.left();
  for (const auto& [key, value] : config.extra.items()) {
    if (!is_off(value)) {
      config.warnings.push_back(fmt::format("{}: {} is not known and has no effect", origin, quote_name(key)));
    }
  }
  return config;
}

std::string lora_config_text(const LoraConfig& config) {
  // Not the ordered Json: this one sorts its keys.
  nlohmann::json json = nlohmann::json::object();
  for (const auto& [key, value] : config.extra.items()) {
    if (!is_off(value)) json[key] = value;
  }
  Json alphas = Json::object();
  for (const auto& [name, alpha] : config.alpha_pattern) alphas[name] = number_json(alpha);
  json["alpha_pattern"] = alphas;
  json["base_model_name_or_path"] = text_or_null(config.base_model_name_or_path);
  json["bias"] = "none";
  if (!config.exclude_modules.all_linear()) json["exclude_modules"] = modules_json(config.exclude_modules);
  json["fan_in_fan_out"] = false;
  json["inference_mode"] = true;
  json["init_lora_weights"] = config.init_lora_weights;
  json["layers_pattern"] = list_or_null(config.layers_pattern);
  json["layers_to_transform"] = list_or_null(config.layers_to_transform);
  json["lora_alpha"] = number_json(config.lora_alpha);
  json["lora_dropout"] = config.lora_dropout;
  json["modules_to_save"] = list_or_null(config.modules_to_save);
  json["peft_type"] = "LORA";
  json["r"] = config.r;
  json["rank_pattern"] = pattern_json(config.rank_pattern);
  json["revision"] = text_or_null(config.revision);
  json["target_modules"] = modules_json(config.target_modules);
  json["task_type"] = text_or_null(config.task_type);
  json["use_dora"] = config.use_dora;
  json["use_rslora"] = config.use_rslora;
  return json.dump(2);
}

}  // namespace qlora
