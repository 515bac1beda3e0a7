// What prepared rows depend on, and whether it is still the same.
#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/core/hash.h"
#include "qlora/data/prepare.h"

namespace qlora {
namespace fs = std::filesystem;
namespace {

Json text_or_null(const std::optional<std::string>& text) {
  return text ? Json(*text) : Json(nullptr);
}

Json number_or_null(const std::optional<std::int64_t>& number) {
  return number ? Json(*number) : Json(nullptr);
}

Json model_parts(const RowEncoder& encoder) {
  const SpecialTokens& special = encoder.special_tokens();
  const Json tokens = {text_or_null(special.bos), text_or_null(special.eos), text_or_null(special.pad),
                       text_or_null(special.unk), special.stop_ids};
  const ChatTemplate* chat_template = encoder.chat_template();
  return {{"tokenizer", sha256(encoder.tokenizer().fingerprint())},
          {"special_tokens", sha256(tokens.dump(-1, ' ', false, Json::error_handler_t::replace))},
          {"chat_template", chat_template == nullptr
                                ? Json(nullptr)
                                : Json(sha256(chat_template->source() + chat_template->tool_source()))}};
}

Json option_parts(const DataOptions& options, const ModelLimits& limits, std::uint64_t seed) {
  // The seed draws rows only where there is something to draw.
  bool draws = options.val_size > 0;
  for (const auto* entries : {&options.dataset, &options.eval_dataset}) {
    for (const auto& entry : *entries) {
      draws = draws || entry.weight != static_cast<double>(static_cast<std::int64_t>(entry.weight));
    }
  }
  return {{"seed", draws ? Json(seed) : Json(nullptr)},
          {"val_size", options.val_size},
          {"chat_template_kwargs", options.chat_template_kwargs},
          {"system_prompt", text_or_null(options.system_prompt)},
          {"prompt_template", options.prompt_template},
          {"prompt_style", static_cast<int>(options.prompt_style)},
          {"max_length", number_or_null(limits.positions)},
          {"overflow", static_cast<int>(options.overflow)},
          {"assistant_only_loss", options.assistant_only_loss ? Json(*options.assistant_only_loss) : Json(nullptr)},
          {"add_special_tokens", options.add_special_tokens}};
}

std::string joined(const std::vector<std::string>& names) {
  return fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace

ModelLimits resolve_limits(const DataOptions& options, ModelLimits limits) {
  if (options.max_length) limits.positions = options.max_length;
  return limits;
}

ModelLimits read_model_limits(const fs::path& model_folder) {
  const fs::path file = model_folder / "config.json";
  if (!fs::exists(file)) return {};
  const Json config = read_json(file);
  const auto number = [&](const char* key) -> std::optional<std::int64_t> {
    const Json* found = config.contains(key) ? &config[key] : nullptr;
    if (found == nullptr && config.contains("text_config") && config["text_config"].contains(key)) {
      found = &config["text_config"][key];
    }
    if (found == nullptr || found->is_null()) return std::nullopt;
    if (!found->is_number_integer() || found->get<std::int64_t>() <= 0) {
      throw DataError(fmt::format("{}: {} must be a positive integer", file.string(), key));
    }
    return found->get<std::int64_t>();
  };
  if (!config.is_object()) throw DataError(fmt::format("{}: must be a JSON object", file.string()));
  return {.vocabulary = number("vocab_size"), .positions = number("max_position_embeddings")};
}

Json fingerprint_parts(const DataSources& sources, const RowEncoder& encoder, const ModelLimits& limits,
                       std::uint64_t seed) {
  Json parts = model_parts(encoder);
  parts["schemas"] = encoder.uses_schemas() ? Json(encoder.schemas().fingerprint()) : Json(nullptr);
  parts["data"] = sources.train.fingerprint();
  parts["eval_data"] = sources.eval ? Json(sources.eval->fingerprint()) : Json(nullptr);
  parts.update(option_parts(encoder.options(), limits, seed));
  return parts;
}

std::string PreparedData::fingerprint() const {
  return sha256(fingerprint_parts.dump());
}

RowEncoder check_prepared(const OpenedData& data, const fs::path& model_folder, const DataOptions& options,
                          std::uint64_t seed) {
  const ModelLimits limits = read_model_limits(model_folder);
  std::optional<DataSources> sources;
  if (!options.dataset.empty()) sources.emplace(open_data(options, seed));
  RowEncoder encoder(model_folder, options, sources ? sources->datasets() : std::vector<const Dataset*>{});
  Json expected;
  if (sources) {
    expected = fingerprint_parts(*sources, encoder, resolve_limits(options, limits), seed);
  } else {
    // What the model decides is compared; whether a template was needed, the set itself says.
    const bool templated = !data.train.metadata().value("chat_template", Json()).is_null();
    DataOptions untemplated = options;
    untemplated.chat_template = "auto";
    const bool same = templated || options.chat_template == "auto";
    expected = same ? model_parts(encoder) : model_parts(RowEncoder(model_folder, untemplated, {}));
    if (!templated) expected["chat_template"] = nullptr;
    // Of the options those that are not left at their defaults: the set holds what prepare was told.
    const Json initial = option_parts({}, resolve_limits({}, limits), seed);
    const Json given = option_parts(options, resolve_limits(options, limits), seed);
    for (const auto& [name, value] : given.items()) {
      if (value != initial.at(name)) expected[name] = value;
    }
  }
  std::vector<std::string> different;
  for (const auto& [name, value] : expected.items()) {
    if (data.train.metadata().value(name, Json()) != value) different.push_back(name);
  }
  if (different.empty()) return encoder;
  throw DataError(fmt::format("prepared_dir was prepared with another {}: run prepare again, or leave out prepared_dir",
                              joined(different)));
}

}  // namespace qlora
