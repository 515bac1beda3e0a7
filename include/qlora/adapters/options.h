// The config keys of LoRA, by PEFT's names.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "qlora/core/schema_fwd.h"

namespace qlora {

// Which linears carry an adapter: all but the output head; those whose name is or ends in .NAME; or those whose whole
// name the regular expression matches. Exactly one of the three is in use.
struct TargetModules {
  std::vector<std::string> names;  // q_proj, mlp.down_proj
  std::string regex;
  bool all_linear() const { return names.empty() && regex.empty(); }
};

enum class LoraInit { kDefault, kGaussian };  // A uniform as Kaiming has it, or normal / r; B is 0

struct AdapterOptions {
  std::string adapter_name_or_path;  // start from its weights; r, alpha and targets are then its own
  int64_t lora_r = 16;
  double lora_alpha = 32.0;
  double lora_dropout = 0.05;
  TargetModules lora_target_modules;
  bool use_rslora = false;  // scale by alpha / sqrt(r), not alpha / r
  bool use_dora = false;
  LoraInit init_lora_weights = LoraInit::kDefault;
  std::vector<std::pair<std::string, int64_t>> rank_pattern;  // module name or regex -> r, the first that matches
  std::vector<std::pair<std::string, double>> alpha_pattern;
  std::vector<std::string> modules_to_save;  // trained whole, saved beside the adapter
  std::vector<int64_t> layers_to_transform;  // empty: all
};

void declare(Schema<AdapterOptions>& schema);

}  // namespace qlora
