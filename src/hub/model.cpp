// Which files of a model's repository are read.
#include <algorithm>
#include <iterator>
#include <set>

#include <fmt/format.h>

#include "qlora/core/json.h"
#include "qlora/hub/repository.h"

namespace qlora {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";
constexpr const char* kSmallFiles[] = {"config.json",
                                       "generation_config.json",
                                       "tokenizer.json",
                                       "tokenizer_config.json",
                                       "tokenizer.model",
                                       "tekken.json",
                                       "qwen.tiktoken",
                                       "special_tokens_map.json",
                                       "added_tokens.json",
                                       "vocab.json",
                                       "merges.txt",
                                       "chat_template.jinja",
                                       "additional_chat_templates/tool_use.jinja"};

std::vector<std::string> shards_of(const HubRepository& repository, const fs::path& index_file) {
  const Json index = read_json(index_file);
  std::set<std::string> shards;
  if (index.is_object() && index.contains("weight_map") && index["weight_map"].is_object()) {
    for (const auto& [tensor, shard] : index["weight_map"].items()) {
      if (shard.is_string()) shards.insert(shard.get<std::string>());
    }
  }
  for (const std::string& shard : shards) {
    const bool there = repository.contains(shard) || !repository.is_listed();
    if (there && is_inner_path(shard) && shard.ends_with(".safetensors")) continue;
    throw DataError(
        fmt::format("{}: it names {}, which is no safetensors file of the repository", index_file.string(), shard));
  }
  return {shards.begin(), shards.end()};
}

void fetch_weights(HubRepository& repository, const std::string& id) {
  if (repository.contains(kIndex) && !repository.contains(kSingle)) {
    repository.fetch(shards_of(repository, repository.fetch({kIndex}) / kIndex));
  } else if (repository.contains(kSingle) || !repository.is_listed()) {
    repository.fetch({kSingle});
  } else {
    throw DataError(
        fmt::format("model {}: holds neither {} nor {}; only safetensors are read: name a revision or another "
                    "repository that has them",
                    id, kSingle, kIndex));
  }
}

}  // namespace

fs::path fetch_model(const std::string& id, const std::string& revision, bool weights) {
  HubRepository repository({HubKind::kModel, id}, revision);
  std::vector<std::string> files;
  std::copy_if(std::begin(kSmallFiles), std::end(kSmallFiles), std::back_inserter(files),
               [&](const char* name) { return repository.contains(name); });
  fs::path folder = repository.fetch(files);
  if (weights) fetch_weights(repository, id);
  return folder;
}

}  // namespace qlora
