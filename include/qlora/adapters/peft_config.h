// adapter_config.json as PEFT writes it, and what it means: which modules, which rank, which scale.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "qlora/adapters/options.h"
#include "qlora/core/json.h"

namespace qlora {

struct LoraConfig {
  std::string base_model_name_or_path;
  std::string revision;                 // empty: none
  std::string task_type = "CAUSAL_LM";  // empty: none
  std::int64_t r = 8;
  double lora_alpha = 8.0;
  double lora_dropout = 0.0;
  TargetModules target_modules;
  std::vector<std::string> target_parameters;     // of fused experts and routers; a loaded adapter has none left
  TargetModules exclude_modules;                  // all_linear(): none
  std::vector<std::int64_t> layers_to_transform;  // empty: all; only beside a list of target_modules
  std::vector<std::string> layers_pattern;
  std::vector<std::pair<std::string, std::int64_t>> rank_pattern;  // the first whose regex is a suffix of the name
  std::vector<std::pair<std::string, double>> alpha_pattern;
  bool use_rslora = false;
  bool use_dora = false;
  std::vector<std::string> modules_to_save;  // ends of names; these carry no adapter
  Json init_lora_weights = true;
  Json extra = Json::object();        // keys that are not known here, as they were read; written again
  std::vector<std::string> warnings;  // what the reader should be told: unknown keys that hold something
};

// Throws DataError naming `origin` and the key for a wrong type or value; UsageError naming the feature for what this
// program does not do yet: biases, replicated layers, initialisations that change the base.
LoraConfig parse_lora_config(const Json& json, const std::string& origin);
// Keys sorted, two-space indent, as PEFT writes it, with the keys that every PEFT version reads.
std::string lora_config_text(const LoraConfig& config);

// Whether a key of rank_pattern or alpha_pattern, a regular expression, means this module: the end of its name, from a
// dot on.
bool pattern_matches(const std::string& key, const std::string& module);

// The rank, and the factor of B.A: alpha / r, or alpha / sqrt(r) with use_rslora, of the module of that name.
std::int64_t lora_rank(const LoraConfig& config, const std::string& module);
double lora_scale(const LoraConfig& config, const std::string& module);

// Those of the modules (by their full names) that the config targets, in the given order. `apart` are the ones that
// all-linear leaves out: embedding and output head. Throws DataError for a malformed regular expression.
std::vector<std::string> lora_targets(const LoraConfig& config, const std::vector<std::string>& modules,
                                      const std::vector<std::string>& apart);

// Whether modules_to_save means this module: by the end of its name, as PEFT.
bool saves_module(const LoraConfig& config, const std::string& module);

// The shortest list that names the same modules as all-linear: the last parts of the names of all linears but the head.
// Sorted. Where the head's last part is also another linear's, full names.
std::vector<std::string> expand_all_linear(const std::vector<std::string>& linears, const std::string& output_head);

}  // namespace qlora
