#include "qlora/models/config.h"

#include <cmath>

#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/models/architecture.h"

namespace qlora {
namespace {

using Json = nlohmann::ordered_json;
using Kind = RopeScaling::Kind;

Kind scaling_kind(const ConfigFields& fields) {
  const std::string type =
      fields.find<std::string>("rope_type").value_or(fields.find<std::string>("type").value_or("default"));
  if (type == "default") return Kind::kNone;
  if (type == "linear") return Kind::kLinear;
  if (type == "dynamic") return Kind::kDynamic;
  if (type == "llama3") return Kind::kLlama3;
  if (type == "yarn") return Kind::kYarn;
  if (type == "longrope" || type == "su") return Kind::kLongrope;
  throw UsageError(
      fmt::format("{}: RoPE scaling '{}' is not built yet; known are: default, linear, dynamic, llama3, yarn, longrope",
                  fields.origin(), type));
}

void parse_llama3(const ConfigFields& fields, RopeScaling& scaling) {
  scaling.low_freq_factor = fields.positive("low_freq_factor", 1.0);
  scaling.high_freq_factor = fields.positive("high_freq_factor", 4.0);
  if (scaling.high_freq_factor <= scaling.low_freq_factor) {
    throw DataError(fmt::format("{}: 'high_freq_factor' must be above 'low_freq_factor'", fields.origin()));
  }
}

double yarn_magnitude(double factor, double scale) {
  return factor <= 1.0 ? 1.0 : 0.1 * scale * std::log(factor) + 1.0;
}

void parse_yarn(const ConfigFields& fields, RopeScaling& scaling) {
  scaling.beta_fast = fields.positive("beta_fast", 32.0);
  scaling.beta_slow = fields.positive("beta_slow", 1.0);
  scaling.truncate = fields.flag("truncate", true);
  const double scale = fields.find<double>("mscale").value_or(0.0);
  const double all = fields.find<double>("mscale_all_dim").value_or(0.0);
  const double magnitude = scale != 0.0 && all != 0.0
                               ? yarn_magnitude(scaling.factor, scale) / yarn_magnitude(scaling.factor, all)
                               : yarn_magnitude(scaling.factor, 1.0);
  scaling.attention_factor = fields.positive("attention_factor", magnitude);
}

void parse_longrope(const ConfigFields& fields, std::int64_t rotary_dim, RopeScaling& scaling) {
  const auto factors = [&](const char* key) {
    auto values = fields.numbers(key);
    if (!values) throw DataError(fmt::format("{}: '{}' is missing", fields.origin(), key));
    if (static_cast<std::int64_t>(values->size()) != rotary_dim / 2) {
      throw DataError(
          fmt::format("{}: '{}' has {} numbers, needs {}", fields.origin(), key, values->size(), rotary_dim / 2));
    }
    return *values;
  };
  scaling.short_factors = factors("short_factor");
  scaling.long_factors = factors("long_factor");
  const double stretch = 1.0 + std::log(scaling.factor) / std::log(scaling.original_max_positions);
  scaling.attention_factor = fields.positive("attention_factor", scaling.factor <= 1.0 ? 1.0 : std::sqrt(stretch));
}

// `outer`: the whole config.json, where Phi-3 has its original length.
RopeScaling parse_scaling(const ConfigFields& fields, const ConfigFields& outer, const ModelConfig& config) {
  RopeScaling scaling;
  scaling.kind = scaling_kind(fields);
  if (scaling.kind == Kind::kNone) return scaling;
  std::int64_t original = config.max_positions;  // all that "dynamic" knows
  if (scaling.kind != Kind::kDynamic) {
    original =
        outer.size("original_max_position_embeddings", fields.size("original_max_position_embeddings", original));
  }
  scaling.original_max_positions = static_cast<double>(original);
  const bool may_follow = scaling.kind == Kind::kYarn || scaling.kind == Kind::kLongrope;
  if (!may_follow && !fields.find<double>("factor")) {
    throw DataError(fmt::format("{}: 'factor' is missing", fields.origin()));
  }
  scaling.factor = fields.positive(
      "factor", may_follow ? static_cast<double>(config.max_positions) / scaling.original_max_positions : 1.0);
  if (scaling.kind == Kind::kLlama3) parse_llama3(fields, scaling);
  if (scaling.kind == Kind::kYarn) parse_yarn(fields, scaling);
  if (scaling.kind == Kind::kLongrope) parse_longrope(fields, config.rotary_dim(), scaling);
  return scaling;
}

// transformers 5 keeps one set of parameters for each kind of layer where they differ.
void parse_rope_by_kind(const ConfigFields& all, const ConfigFields& outer, ModelConfig& config) {
  if (const auto full = all.object("full_attention")) {
    const ConfigFields fields(*full, all.origin() + ": full_attention");
    config.rope_base = fields.positive("rope_theta", config.rope_base);
    config.rope_scaling = parse_scaling(fields, outer, config);
  }
  if (const auto windowed = all.object("sliding_attention")) {
    const ConfigFields fields(*windowed, all.origin() + ": sliding_attention");
    config.windowed_rope_base = fields.positive("rope_theta", config.windowed_rope_base);
    if (scaling_kind(fields) != Kind::kNone) {
      throw UsageError(fmt::format("{}: RoPE scaling of windowed layers is not built yet", fields.origin()));
    }
  }
}

void parse_rope(const ConfigFields& fields, ModelConfig& config) {
  config.rope_base = fields.positive("rope_theta", config.rope_base);
  const auto parameters = fields.object("rope_parameters");
  const auto scaling = parameters ? parameters : fields.object("rope_scaling");
  if (!scaling) return;
  const ConfigFields inner(*scaling, fields.origin() + (parameters ? ": rope_parameters" : ": rope_scaling"));
  if (inner.has("full_attention") || inner.has("sliding_attention")) return parse_rope_by_kind(inner, fields, config);
  if (parameters) config.rope_base = inner.positive("rope_theta", config.rope_base);
  config.rope_scaling = parse_scaling(inner, fields, config);
}

Activation parse_activation(const ConfigFields& fields) {
  const std::string name = fields.find<std::string>("hidden_act").value_or("silu");
  if (name == "silu") return Activation::kSilu;
  if (name == "gelu_pytorch_tanh") return Activation::kGeluTanh;
  throw UsageError(
      fmt::format("{}: hidden_act '{}' is not built yet; known are: silu, gelu_pytorch_tanh", fields.origin(), name));
}

// What config.json says alike for all architectures, or leaves at 0 for the architecture to say.
void parse_common(const ConfigFields& fields, ModelConfig& config) {
  config.vocabulary = fields.size("vocab_size");
  config.hidden = fields.size("hidden_size");
  config.intermediate = fields.find<std::int64_t>("intermediate_size") ? fields.size("intermediate_size") : 0;
  config.layers = fields.size("num_hidden_layers");
  constexpr std::int64_t kMostLayers = 10'000;  // a damaged number must not take all memory
  if (config.layers > kMostLayers) {
    throw DataError(
        fmt::format("{}: 'num_hidden_layers' is {}: more than {}", fields.origin(), config.layers, kMostLayers));
  }
  config.heads = fields.size("num_attention_heads");
  config.kv_heads = fields.size("num_key_value_heads", config.heads);
  const bool divides = config.hidden % config.heads == 0;
  config.head_dim = fields.find<std::int64_t>("head_dim") ? fields.size("head_dim")
                    : divides                             ? config.hidden / config.heads
                                                          : 0;
  config.norm_epsilon = fields.positive("rms_norm_eps", 1e-6);
  config.max_positions = fields.size("max_position_embeddings", 2048);
  config.tied_embeddings = fields.flag("tie_word_embeddings", false);
  config.initializer_range = fields.positive("initializer_range", 0.02);
  config.dtype = fields.find<std::string>("dtype").value_or(fields.find<std::string>("torch_dtype").value_or(""));
  config.activation = parse_activation(fields);
}

// As bitsandbytes and transformers have it, fp4 is what an absent quant_type means.
std::optional<StoredNf4> parse_quantization(const ConfigFields& outer) {
  const auto json = outer.object("quantization_config");
  if (!json) return std::nullopt;
  const ConfigFields fields(*json, outer.origin() + ": quantization_config");
  const auto refuse = [&](const std::string& what) {
    throw UsageError(fmt::format(
        "{}: weights quantized {} are not supported; those of bitsandbytes in NF4 are, or take the 16-bit original",
        fields.origin(), what));
  };
  const std::string method = fields.find<std::string>("quant_method").value_or("bitsandbytes");
  if (method != "bitsandbytes") refuse(fmt::format("by '{}'", method));
  if (fields.flag("load_in_8bit", false)) refuse("to int8 (LLM.int8)");
  if (!fields.flag("load_in_4bit", false)) return std::nullopt;
  const std::string type = fields.find<std::string>("bnb_4bit_quant_type").value_or("fp4");
  if (type != "nf4") refuse(fmt::format("to '{}'", type));
  return StoredNf4{fields.flag("bnb_4bit_use_double_quant", false),
                   fields.strings("llm_int8_skip_modules").value_or(std::vector<std::string>{})};
}

void check(const ModelConfig& c, const std::string& origin) {
  if (c.intermediate == 0) throw DataError(fmt::format("{}: 'intermediate_size' is missing", origin));
  if (c.head_dim == 0) {
    throw DataError(
        fmt::format("{}: hidden_size {} is no multiple of num_attention_heads {}", origin, c.hidden, c.heads));
  }
  if (c.heads % c.kv_heads != 0) {
    throw DataError(fmt::format("{}: num_attention_heads {} is no multiple of num_key_value_heads {}", origin, c.heads,
                                c.kv_heads));
  }
  if (c.rotary_dim() % 2 != 0 || c.rotary_dim() < 2 || c.rotary_dim() > c.head_dim) {
    throw DataError(fmt::format("{}: RoPE turns {} of {} columns of a head: must be an even number of them", origin,
                                c.rotary_dim(), c.head_dim));
  }
}

}  // namespace

ModelConfig parse_model_config(const Json& json, const std::string& origin) {
  const ConfigFields fields(json, origin);
  ModelConfig config;
  const auto type = fields.find<std::string>("model_type");
  if (!type) throw DataError(fmt::format("{}: 'model_type' is missing", origin));
  config.model_type = *type;
  const Architecture& architecture = find_architecture(*type, origin);
  parse_common(fields, config);
  architecture.configure(fields, config);
  config.stored_nf4 = parse_quantization(fields);
  check(config, origin);
  parse_rope(fields, config);
  return config;
}

}  // namespace qlora
