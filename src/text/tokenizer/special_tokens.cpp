// The named special tokens of a model folder.
#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "qlora/text/tokenizer.h"
#include "qlora/text/tokenizer/json_node.h"

namespace qlora {
namespace {

// A JSON file of the folder; null where it is absent.
struct ConfigFile {
  ConfigFile(const std::filesystem::path& folder, const char* name) : file(folder / name) {
    if (std::filesystem::exists(file)) document = parse_tokenizer_json(read_tokenizer_bytes(file), file.string());
  }
  JsonNode root() const { return JsonNode(document, file.string()); }
  bool exists() const { return !document.is_null(); }
  std::optional<JsonNode> find(const std::string& key) const { return exists() ? root().find(key) : std::nullopt; }

  std::filesystem::path file;
  nlohmann::json document;
};

// A text, or an object with its "content".
std::string token_text(const JsonNode& node) {
  return node.value().is_object() ? node.at("content").text() : node.text();
}

// "<name>_token_id": one id or a list of them.
std::vector<std::int32_t> read_ids(const ConfigFile& config, const std::string& key) {
  std::vector<std::int32_t> ids;
  const auto node = config.find(key);
  if (!node) return ids;
  const auto add = [&](const JsonNode& id) {
    ids.push_back(static_cast<std::int32_t>(id.integer(INT32_MIN, INT32_MAX)));
  };
  if (node->value().is_array()) {
    for (const JsonNode& id : node->items()) add(id);
  } else {
    add(*node);
  }
  return ids;
}

}  // namespace

SpecialTokens load_special_tokens(const std::filesystem::path& model_folder, const Tokenizer& tokenizer) {
  const ConfigFile tokenizer_config(model_folder, "tokenizer_config.json");
  const ConfigFile map(model_folder, "special_tokens_map.json");
  const ConfigFile config(model_folder, "config.json");
  const ConfigFile generation(model_folder, "generation_config.json");
  // As transformers: a tokenizer_config.json that lists its added tokens rules alone, else the map comes first.
  const bool use_map = !tokenizer_config.find("added_tokens_decoder");
  const auto named = [&](const std::string& name) -> std::optional<std::string> {
    if (use_map) {
      if (const auto node = map.find(name + "_token")) return token_text(*node);
    }
    if (const auto node = tokenizer_config.find(name + "_token")) return token_text(*node);
    for (const ConfigFile* file : {&generation, &config}) {
      for (const std::int32_t id : read_ids(*file, name + "_token_id")) {
        if (auto token = tokenizer.token_of(id)) return token;
      }
    }
    return std::nullopt;
  };
  SpecialTokens out{named("bos"), named("eos"), named("pad"), named("unk"), {}};
  out.stop_ids = read_ids(generation, "eos_token_id");
  if (out.stop_ids.empty()) out.stop_ids = read_ids(config, "eos_token_id");
  if (out.stop_ids.empty() && out.eos) {
    if (const auto id = tokenizer.id_of(*out.eos)) out.stop_ids.push_back(*id);
  }
  return out;
}

}  // namespace qlora
