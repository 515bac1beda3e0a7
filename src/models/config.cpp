#include "qlora/models/config.h"

#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/models/architecture.h"

namespace qlora {
namespace {

using Json = nlohmann::ordered_json;

// Typed look-ups that name file and field in errors; a field that is null counts as absent.
class Fields {
 public:
  Fields(const Json& json, std::string origin) : json_(json), origin_(std::move(origin)) {
    if (!json.is_object()) throw DataError(fmt::format("{}: is not a JSON object", origin_));
  }

  template <typename T>
  std::optional<T> find(const char* key) const {
    const auto it = json_.find(key);
    if (it == json_.end() || it->is_null()) return std::nullopt;
    if constexpr (std::is_same_v<T, bool>) {
      if (!it->is_boolean()) throw wrong_type(key, "true or false", *it);
    } else if constexpr (std::is_same_v<T, std::string>) {
      if (!it->is_string()) throw wrong_type(key, "a string", *it);
    } else if constexpr (std::is_integral_v<T>) {
      if (!it->is_number_integer()) throw wrong_type(key, "a whole number", *it);
    } else {
      if (!it->is_number()) throw wrong_type(key, "a number", *it);
    }
    return it->get<T>();
  }

  std::int64_t size(const char* key, std::optional<std::int64_t> otherwise = std::nullopt) const {
    const auto value = find<std::int64_t>(key);
    if (!value && otherwise) return *otherwise;
    if (!value) throw DataError(fmt::format("{}: '{}' is missing", origin_, key));
    if (*value < 1 || *value > (std::int64_t{1} << 31)) {
      throw DataError(fmt::format("{}: '{}' is {}: not a size", origin_, key, *value));
    }
    return *value;
  }

  double positive(const char* key, double otherwise) const {
    const double value = find<double>(key).value_or(otherwise);
    if (!(value > 0.0)) throw DataError(fmt::format("{}: '{}' is {}: must be above 0", origin_, key, value));
    return value;
  }

  std::optional<Json> object(const char* key) const {
    const auto it = json_.find(key);
    if (it == json_.end() || it->is_null()) return std::nullopt;
    if (!it->is_object()) throw wrong_type(key, "an object", *it);
    return *it;
  }

  const std::string& origin() const { return origin_; }

 private:
  DataError wrong_type(const char* key, const char* wanted, const Json& value) const {
    return DataError(fmt::format("{}: '{}' must be {}, is {}", origin_, key, wanted, value.dump()));
  }

  const Json& json_;
  std::string origin_;
};

RopeScaling parse_scaling(const Fields& fields, std::int64_t max_positions) {
  RopeScaling scaling;
  const std::string type =
      fields.find<std::string>("rope_type").value_or(fields.find<std::string>("type").value_or("default"));
  if (type == "default") return scaling;
  scaling.factor = fields.positive("factor", 1.0);
  if (type == "linear") {
    scaling.kind = RopeScaling::Kind::kLinear;
  } else if (type == "llama3") {
    scaling.kind = RopeScaling::Kind::kLlama3;
    scaling.low_freq_factor = fields.positive("low_freq_factor", 1.0);
    scaling.high_freq_factor = fields.positive("high_freq_factor", 4.0);
    scaling.original_max_positions =
        static_cast<double>(fields.size("original_max_position_embeddings", max_positions));
    if (scaling.high_freq_factor <= scaling.low_freq_factor) {
      throw DataError(fmt::format("{}: 'high_freq_factor' must be above 'low_freq_factor'", fields.origin()));
    }
  } else {
    throw UsageError(fmt::format("{}: RoPE scaling '{}' is not built yet; known are: default, linear, llama3",
                                 fields.origin(), type));
  }
  return scaling;
}

void parse_rope(const Fields& fields, ModelConfig& config) {
  config.rope_base = fields.positive("rope_theta", 10000.0);
  const auto parameters = fields.object("rope_parameters");
  const auto scaling = parameters ? parameters : fields.object("rope_scaling");
  if (!scaling) return;
  const Fields inner(*scaling, fields.origin() + (parameters ? ": rope_parameters" : ": rope_scaling"));
  if (parameters) config.rope_base = inner.positive("rope_theta", config.rope_base);
  config.rope_scaling = parse_scaling(inner, config.max_positions);
}

void check_heads(const ModelConfig& c, const std::string& origin) {
  if (c.heads % c.kv_heads != 0) {
    throw DataError(fmt::format("{}: num_attention_heads {} is no multiple of num_key_value_heads {}", origin, c.heads,
                                c.kv_heads));
  }
  if (c.head_dim % 2 != 0)
    throw DataError(fmt::format("{}: head_dim {} is odd: RoPE rotates halves", origin, c.head_dim));
}

}  // namespace

ModelConfig parse_model_config(const Json& json, const std::string& origin) {
  const Fields fields(json, origin);
  ModelConfig config;
  const auto type = fields.find<std::string>("model_type");
  if (!type) throw DataError(fmt::format("{}: 'model_type' is missing", origin));
  config.model_type = *type;
  const Architecture& architecture = find_architecture(*type, origin);
  config.vocabulary = fields.size("vocab_size");
  config.hidden = fields.size("hidden_size");
  config.intermediate = fields.size("intermediate_size");
  config.layers = fields.size("num_hidden_layers");
  config.heads = fields.size("num_attention_heads");
  config.kv_heads = fields.size("num_key_value_heads", config.heads);
  if (!fields.find<std::int64_t>("head_dim") && config.hidden % config.heads != 0) {
    throw DataError(fmt::format("{}: hidden_size {} is no multiple of num_attention_heads {}", origin, config.hidden,
                                config.heads));
  }
  config.head_dim = fields.size("head_dim", config.hidden / config.heads);
  config.norm_epsilon = fields.positive("rms_norm_eps", 1e-6);
  config.max_positions = fields.size("max_position_embeddings", 2048);
  config.tied_embeddings = fields.find<bool>("tie_word_embeddings").value_or(false);
  config.initializer_range = fields.positive("initializer_range", 0.02);
  config.dtype = fields.find<std::string>("dtype").value_or(fields.find<std::string>("torch_dtype").value_or(""));
  const std::string activation = fields.find<std::string>("hidden_act").value_or("silu");
  if (activation != "silu")
    throw UsageError(fmt::format("{}: hidden_act '{}' is not built yet; known is: silu", origin, activation));
  parse_rope(fields, config);
  check_heads(config, origin);
  architecture.configure(json, origin, config);
  return config;
}

}  // namespace qlora
