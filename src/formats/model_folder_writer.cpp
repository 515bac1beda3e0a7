// Writing a model's weights, in one file or in shards with an index.
#include <algorithm>
#include <set>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "qlora/core/atomic_file.h"
#include "qlora/core/error.h"
#include "qlora/core/quote.h"
#include "qlora/formats/model_folder.h"

namespace qlora {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

bool is_weight_file(const std::string& name) {
  return name == kSingle || name == kIndex || (name.starts_with("model-") && name.ends_with(".safetensors"));
}

// A half-replaced model must not be taken for a whole one.
void remove_stale(const fs::path& folder, const std::set<std::string>& kept) {
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename();
    if (is_weight_file(name) && !kept.contains(name)) fs::remove(entry.path());
  }
}

}  // namespace

ModelFolderWriter::ModelFolderWriter(const fs::path& folder, const std::vector<TensorSpec>& tensors,
                                     std::uint64_t shard_bytes)
    : folder_(folder) {
  std::uint64_t filled = 0;
  for (const TensorSpec& spec : tensors) {
    const auto bytes = static_cast<std::uint64_t>(spec.byte_count());
    if (shards_.empty() || (filled > 0 && filled + bytes > shard_bytes)) {
      shards_.emplace_back();
      filled = 0;
    }
    shards_.back().specs.push_back(spec);
    if (!where_.emplace(spec.name, shards_.size() - 1).second) {
      throw DataError(fmt::format("{}: tensor {} was declared twice", folder.string(), quote_name(spec.name)));
    }
    filled += bytes;
    total_bytes_ += bytes;
  }
  if (shards_.empty()) shards_.emplace_back();
  for (std::size_t i = 0; i < shards_.size(); ++i) {
    shards_[i].file = shards_.size() == 1 ? std::string(kSingle)
                                          : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards_.size());
  }
}

ModelFolderWriter::Shard& ModelFolderWriter::shard_of(const std::string& name) {
  const auto place = where_.find(name);
  if (place == where_.end()) {
    throw RuntimeFailure(fmt::format("{}: tensor {} was not declared", folder_.string(), quote_name(name)));
  }
  Shard& shard = shards_[place->second];
  if (!shard.writer) shard.writer = std::make_unique<SafetensorsWriter>(folder_ / shard.file, shard.specs);
  return shard;
}

void ModelFolderWriter::append(const std::string& name, std::span<const std::byte> bytes) {
  shard_of(name).writer->append(name, bytes);
}

void ModelFolderWriter::commit() {
  std::set<std::string> kept;
  for (Shard& shard : shards_) {
    if (!shard.writer) shard.writer = std::make_unique<SafetensorsWriter>(folder_ / shard.file, shard.specs);
    kept.insert(shard.file);
  }
  remove_stale(folder_, kept);
  for (Shard& shard : shards_) shard.writer->commit();
  if (shards_.size() > 1) write_index();
}

void ModelFolderWriter::write_index() const {
  nlohmann::json index = {{"metadata", {{"total_size", total_bytes_}}}, {"weight_map", nlohmann::json::object()}};
  for (const auto& [name, shard] : where_) index["weight_map"][name] = shards_[shard].file;
  write_file_atomically(folder_ / kIndex, index.dump(2) + "\n");
}

}  // namespace qlora
