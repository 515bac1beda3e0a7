// The declarations of LoRA's keys.
#include "qlora/adapters/options.h"

#include <algorithm>

#include <spdlog/fmt/fmt.h>

#include "qlora/adapters/pattern.h"
#include "qlora/core/error.h"
#include "qlora/core/schema.h"

namespace qlora {
namespace {

bool is_module_name(const std::string& text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '_' || c == '.' || c == '-';
  });
}

// mlx-lm multiplies by `scale` where PEFT multiplies by alpha / r.
std::optional<std::string> alpha_of_scale(const std::string& text, const Lookup& lookup) {
  double scale = 0, rank = 0;
  if (!text_to(text, scale) || !text_to(lookup("lora_r"), rank)) return std::nullopt;
  return fmt::format("{}", scale * rank);
}

std::string pattern_problem(const std::string& expression) {
  try {
    const NamePattern pattern(expression);
    return "";
  } catch (const DataError& error) {
    return error.what();
  }
}

}  // namespace

// One text of names with commas is a list; any other text is a regular expression.
template <>
struct CustomForm<TargetModules> {
  static constexpr bool kTakesList = true;
  static std::string type() { return "all-linear, a list of module names or a regular expression"; }

  static bool read(const Value& value, TargetModules& modules) {
    modules = {};
    if (value.kind == Value::Kind::kList) return read_names(value.items, modules);
    if (value.kind != Value::Kind::kScalar || value.text.empty()) return false;
    if (value.text == "all-linear" || value.text == "all") return true;
    modules.names = split_at_commas(value.text);
    if (std::all_of(modules.names.begin(), modules.names.end(), is_module_name)) return !modules.names.empty();
    modules.names.clear();
    modules.regex = value.text;
    return true;
  }

  static Json json(const TargetModules& modules) {
    if (modules.all_linear()) return "all-linear";
    return modules.regex.empty() ? Json(modules.names) : Json(modules.regex);
  }

 private:
  static bool read_names(const std::vector<Value>& items, TargetModules& modules) {
    for (const Value& item : items) {
      if (item.kind != Value::Kind::kScalar || !is_module_name(item.text)) return false;
      modules.names.push_back(item.text);
    }
    if (modules.names.size() == 1 && modules.names[0] == "all-linear") modules.names.clear();
    return !items.empty();
  }
};

void declare(Schema<AdapterOptions>& schema) {
  using A = AdapterOptions;
  schema
      .key("adapter_name_or_path", &A::adapter_name_or_path,
           "Start from this adapter's weights; r, alpha and targets are then its own.")
      .synonyms({"lora_model_dir"});
  schema.key("lora_r", &A::lora_r, "Rank of the adapters.").at_least(1).at_most(65536).synonyms({"lora_rank", "rank"});
  schema.key("lora_alpha", &A::lora_alpha, "Adapters are scaled by lora_alpha / lora_r.")
      .above(0)
      .synonym("scale", "a number, which is multiplied by lora_r", alpha_of_scale);
  schema
      .key("lora_dropout", &A::lora_dropout,
           "Dropout of an adapter's input. Adapters on experts have none: there the default is 0.")
      .at_least(0)
      .below(1);
  schema
      .key("lora_target_modules", &A::lora_target_modules,
           "Which modules carry an adapter: all-linear (all but the output head), names (embed_tokens and lm_head, "
           "too), or a regular expression that matches the whole name.")
      .synonyms({"lora_target", "target_modules"})
      .synonym("lora_target_linear", {{"true", "all-linear"}, {"false", std::nullopt}});
  schema.rule("lora_target_modules", [](const A& a) { return pattern_problem(a.lora_target_modules.regex); });
  schema.key("use_rslora", &A::use_rslora, "Scale by lora_alpha / sqrt(lora_r).")
      .synonyms({"lora_use_rslora", "peft_use_rslora"});
  schema
      .key("use_dora", &A::use_dora,
           "DoRA: the magnitudes of the weights' rows are trained apart from their directions.")
      .synonyms({"lora_use_dora", "peft_use_dora"});
  schema.key("init_lora_weights", &A::init_lora_weights, "How A starts: true (Kaiming, uniform) or gaussian. B is 0.")
      .choices({{"true", LoraInit::kDefault}, {"gaussian", LoraInit::kGaussian}});
  schema
      .key("rank_pattern", &A::rank_pattern,
           "Other ranks by module name or regular expression; the first that matches the end of a name, from a dot on.")
      .at_least(1);
  schema.key("alpha_pattern", &A::alpha_pattern, "Other alphas in the same way.").above(0);
  schema
      .key("modules_to_save", &A::modules_to_save,
           "Modules that are trained whole beside the adapters, by the ends of their names: embedding, norms, output "
           "head.")
      .synonyms({"lora_modules_to_save", "additional_target"});
  schema
      .key("layers_to_transform", &A::layers_to_transform,
           "The layers that carry adapters, counted from 0; not beside a regular expression. Empty: all.")
      .at_least(0)
      .synonyms({"peft_layers_to_transform"});
  schema.rule("layers_to_transform", [](const A& a) -> std::string {
    return a.layers_to_transform.empty() || a.lora_target_modules.regex.empty()
               ? ""
               : "a regular expression in lora_target_modules says itself which layers it means";
  });
}

}  // namespace qlora
