// Which modules a LoRA config means, and with which rank and scale: PEFT's rules.
#include <algorithm>
#include <cmath>
#include <optional>
#include <set>

#include <fmt/format.h>

#include "qlora/adapters/pattern.h"
#include "qlora/adapters/peft_config.h"
#include "qlora/core/error.h"

namespace qlora {
namespace {

template <class T>
T find_pattern(const std::vector<std::pair<std::string, T>>& patterns, const std::string& module, T otherwise) {
  for (const auto& [key, value] : patterns) {
    if (pattern_matches(key, module)) return value;
  }
  return otherwise;
}

using Names = std::set<std::string, std::less<>>;

// Whether the module, or its end behind a dot, is one of the names.
bool ends_in_any(std::string_view module, const Names& names) {
  while (!names.contains(module)) {
    const std::size_t dot = module.find('.');
    if (dot == std::string_view::npos) return false;
    module.remove_prefix(dot + 1);
  }
  return true;
}

// "model.layers.3.mlp.up_proj" -> 3: the number after the first two parts, or after `pattern`.
std::optional<std::int64_t> layer_index(const std::string& module, const std::vector<std::string>& patterns) {
  std::vector<std::string> parts(1);
  for (const char c : module) {
    if (c == '.') {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  const auto is_number = [](const std::string& part) {
    return !part.empty() && part.size() < 10 && part.find_first_not_of("0123456789") == std::string::npos;
  };
  for (std::size_t i = 1; i + 1 < parts.size(); ++i) {
    if (!is_number(parts[i])) continue;
    const bool named = std::any_of(patterns.begin(), patterns.end(), [&](const std::string& pattern) {
      return NamePattern("(?:.*\\.)?(?:" + pattern + ")")
          .matches_whole(module.substr(0, module.find("." + parts[i] + ".")));
    });
    if (patterns.empty() ? i >= 2 : named) return std::stoll(parts[i]);
  }
  return std::nullopt;
}

bool layer_is_chosen(const LoraConfig& config, const std::string& module) {
  if (config.layers_to_transform.empty()) return true;
  const std::optional<std::int64_t> index = layer_index(module, config.layers_pattern);
  const auto& layers = config.layers_to_transform;
  return index && std::find(layers.begin(), layers.end(), *index) != layers.end();
}

}  // namespace

bool pattern_matches(const std::string& key, const std::string& module) {
  return NamePattern("(.*\\.)?(" + key + ")").matches_whole(module);
}

std::int64_t lora_rank(const LoraConfig& config, const std::string& module) {
  return find_pattern(config.rank_pattern, module, config.r);
}

double lora_scale(const LoraConfig& config, const std::string& module) {
  const auto r = static_cast<double>(lora_rank(config, module));
  const double alpha = find_pattern(config.alpha_pattern, module, config.lora_alpha);
  return alpha / (config.use_rslora ? std::sqrt(r) : r);
}

bool saves_module(const LoraConfig& config, const std::string& module) {
  return std::any_of(config.modules_to_save.begin(), config.modules_to_save.end(),
                     [&](const std::string& name) { return module.ends_with(name); });
}

std::vector<std::string> lora_targets(const LoraConfig& config, const std::vector<std::string>& modules,
                                      const std::vector<std::string>& apart) {
  const TargetModules& targets = config.target_modules;
  const TargetModules& excluded = config.exclude_modules;
  const std::optional<NamePattern> wanted =
      targets.regex.empty() ? std::nullopt : std::optional<NamePattern>(targets.regex);
  const std::optional<NamePattern> unwanted =
      excluded.regex.empty() ? std::nullopt : std::optional<NamePattern>(excluded.regex);
  const Names wanted_names(targets.names.begin(), targets.names.end());
  const Names unwanted_names(excluded.names.begin(), excluded.names.end());
  std::vector<std::string> result;
  const auto is_apart = [&](const std::string& module) {
    return std::find(apart.begin(), apart.end(), module) != apart.end();
  };
  for (const std::string& module : modules) {
    if (saves_module(config, module)) continue;
    if (unwanted ? unwanted->matches_whole(module) : ends_in_any(module, unwanted_names)) continue;
    const bool chosen = wanted                 ? wanted->matches_whole(module)
                        : targets.all_linear() ? !is_apart(module) && layer_is_chosen(config, module)
                                               : ends_in_any(module, wanted_names) && layer_is_chosen(config, module);
    if (chosen) result.push_back(module);
  }
  return result;
}

std::vector<std::string> expand_all_linear(const std::vector<std::string>& linears, const std::string& output_head) {
  const auto last_part = [](const std::string& name) { return name.substr(name.rfind('.') + 1); };
  std::set<std::string> parts;
  std::set<std::string> full;
  for (const std::string& module : linears) {
    if (module == output_head) continue;
    parts.insert(last_part(module));
    full.insert(module);
  }
  const std::set<std::string>& names = parts.contains(last_part(output_head)) ? full : parts;
  return {names.begin(), names.end()};
}

}  // namespace qlora
