#include "qlora/formats/model_folder.h"

#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/core/hash.h"
#include "qlora/core/quote.h"

namespace qlora {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

bool is_below(const fs::path& file, const fs::path& folder) {
  const auto [end_of_folder, in_file] = std::mismatch(folder.begin(), folder.end(), file.begin(), file.end());
  return end_of_folder == folder.end() && in_file != file.end();
}

bool has_any_entry(const fs::path& path) {  // a dangling link counts
  std::error_code error;
  return fs::symlink_status(path, error).type() != fs::file_type::not_found;
}

bool is_pickle(const std::string& name) {
  const std::string extension = fs::path(name).extension();
  return extension == ".bin" || extension == ".pt" || extension == ".pth" || extension == ".ckpt";
}

[[noreturn]] void refuse_pickle(const fs::path& folder, const std::string& file) {
  throw DataError(fmt::format(
      "{}: {} is a Python pickle, which can run any code when it is opened; only safetensors are read. Convert it with "
      "transformers: AutoModelForCausalLM.from_pretrained(...).save_pretrained(..., safe_serialization=True)",
      folder.string(), quote_name(file)));
}

[[noreturn]] void refuse_missing_weights(const fs::path& folder) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename();
    if (is_pickle(name)) refuse_pickle(folder, name);
  }
  throw DataError(fmt::format("{}: it holds neither {} nor {}", folder.string(), kSingle, kIndex));
}

std::map<std::string, std::string> read_index(const fs::path& folder) {
  const fs::path path = resolve_inside(folder, kIndex);
  const Json index = read_json(path);
  const auto fail = [&](const std::string& problem) { throw DataError(fmt::format("{}: {}", path.string(), problem)); };
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    fail("it has no object 'weight_map'");
  }
  std::map<std::string, std::string> result;
  for (const auto& [name, file] : index["weight_map"].items()) {
    if (!file.is_string()) fail(fmt::format("the file of tensor {} is no string", quote_name(name)));
    result[name] = file.get<std::string>();
  }
  if (result.empty()) fail("its weight_map is empty");
  return result;
}

}  // namespace

fs::path resolve_inside(const fs::path& folder, const std::string& name) {
  const auto fail = [&](const std::string& problem) {
    throw DataError(fmt::format("{}: the file name {} {}", folder.string(), quote_name(name), problem));
  };
  const fs::path relative(name);
  if (name.empty() || name.find('\0') != std::string::npos) fail("is empty or holds a NUL byte");
  if (relative.is_absolute()) fail("is absolute; only files inside of the folder are read");
  if (std::find(relative.begin(), relative.end(), "..") != relative.end()) fail("leads out of the folder");
  std::error_code error;
  const fs::path root = fs::canonical(folder, error);
  if (error) throw DataError(fmt::format("{}: no such folder", folder.string()));
  const fs::path file = fs::canonical(root / relative, error);
  if (error) throw DataError(fmt::format("{}: cannot be opened: {}", (folder / relative).string(), error.message()));
  const fs::path repository = root.parent_path().parent_path();
  const bool in_cache = root.parent_path().filename() == "snapshots" &&
                        repository.filename().string().starts_with("models--") &&
                        (is_below(file, repository / "blobs") || is_below(file, repository.parent_path() / "blobs"));
  if (!is_below(file, root) && !in_cache) fail(fmt::format("is a link out of the folder, to {}", file.string()));
  return file;
}

ModelFolder::ModelFolder(const fs::path& folder) : path_(folder) {
  if (!fs::is_directory(folder)) throw DataError(fmt::format("{}: no such model folder", folder.string()));
  config_ = read_json(resolve_inside(folder, "config.json"));
  if (!config_.is_object()) throw DataError(fmt::format("{}: is no JSON object", (folder / "config.json").string()));

  if (has_any_entry(folder / kSingle)) {
    add_shard(kSingle, nullptr);
  } else if (has_any_entry(folder / kIndex)) {
    const std::map<std::string, std::string> index = read_index(folder);
    std::set<std::string> files;
    for (const auto& [name, file] : index) files.insert(file);
    for (const std::string& file : files) add_shard(file, &index);
    for (const auto& [name, file] : index) {
      if (!where_.contains(name)) {
        throw DataError(fmt::format("{}: the index says that {} holds tensor {}, but it does not", folder.string(),
                                    quote_name(file), quote_name(name)));
      }
    }
  } else {
    refuse_missing_weights(folder);
  }
}

void ModelFolder::add_shard(const std::string& file, const std::map<std::string, std::string>* index) {
  if (is_pickle(file)) refuse_pickle(path_, file);
  const SafetensorsFile& shard = shards_.emplace_back(resolve_inside(path_, file));
  for (const SafetensorsEntry& entry : shard.entries()) {
    const std::string& name = entry.spec.name;
    if (index != nullptr) {
      const auto listed = index->find(name);
      if (listed == index->end() || listed->second != file) {
        throw DataError(fmt::format(
            "{}: {} holds tensor {}, which the index {}", path_.string(), quote_name(file), quote_name(name),
            listed == index->end() ? "does not list" : "places in " + quote_name(listed->second)));
      }
    }
    where_[name] = shards_.size() - 1;
    names_.push_back(name);
    total_bytes_ += entry.end - entry.begin;
  }
}

std::size_t ModelFolder::shard_of(const std::string& name) const {
  const auto place = where_.find(name);
  if (place == where_.end()) throw DataError(fmt::format("{}: it has no tensor {}", path_.string(), quote_name(name)));
  return place->second;
}

HostTensor ModelFolder::tensor(const std::string& name) const {
  return shards_[shard_of(name)].tensor(name);
}

const fs::path& ModelFolder::file_of(const std::string& name) const {
  return shards_[shard_of(name)].path();
}

std::string ModelFolder::weights_identity() const {
  constexpr std::size_t kSample = 1024;
  Sha256 hash;
  for (const auto& [name, shard] : where_) {
    const HostTensor tensor = shards_[shard].tensor(name);
    const std::string_view bytes(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size());
    hash.update(fmt::format("{} {} {} {}\n", name.size(), name, element_name(tensor.type), shape_text(tensor.shape)));
    if (bytes.size() <= 3 * kSample) {
      hash.update(bytes);
      continue;
    }
    for (const std::size_t at : {std::size_t{0}, bytes.size() / 2, bytes.size() - kSample}) {
      hash.update(bytes.substr(at, kSample));
    }
  }
  return hash.hex();
}

std::string ModelFolder::config_identity() const {
  return sha256(MappedFile(resolve_inside(path_, "config.json")).text());
}

}  // namespace qlora
