// A model folder in Hugging Face layout: config.json, and weights in one safetensors file or in shards with an index.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "qlora/core/host_tensor.h"
#include "qlora/core/json.h"
#include "qlora/formats/safetensors.h"

namespace qlora {

// Resolves a file's name inside of a folder, links followed. Throws DataError for a name that is absolute, empty, holds
// NUL or "..", or leads out of the folder. Links into the blobs of the same Hugging Face cache entry
// (models--*/snapshots/<revision>/x -> ../../blobs/<etag>, and from there into the blobs that all entries share) are
// allowed: that is how the cache stores files.
std::filesystem::path resolve_inside(const std::filesystem::path& folder, const std::string& name);

class ModelFolder {
 public:
  // Opens every weight file and checks it against the index. model.safetensors wins over an index. Throws DataError
  // for a missing folder, config.json or weights, for weights in pickled formats (never opened: a pickle can run code),
  // for an index that names a tensor its shard lacks, and for whatever SafetensorsFile refuses.
  explicit ModelFolder(const std::filesystem::path& folder);

  const std::filesystem::path& path() const { return path_; }
  const Json& config() const { return config_; }

  // Every tensor's name in the order of the files and of the bytes in them: the order to stream them in.
  const std::vector<std::string>& names() const { return names_; }
  bool contains(const std::string& name) const { return where_.contains(name); }
  // A view into the mapped file, valid while this lives. Throws DataError naming the folder where there is none.
  HostTensor tensor(const std::string& name) const;
  // The file that holds it, for messages.
  const std::filesystem::path& file_of(const std::string& name) const;
  std::uint64_t total_bytes() const { return total_bytes_; }

  // SHA-256 over every tensor's name, type, shape and samples of its bytes (first, middle and last 1,024), in the order
  // of the names: the same however the weights are split into files; another fine-tune of the same model differs.
  std::string weights_identity() const;
  // SHA-256 of config.json's bytes.
  std::string config_identity() const;

 private:
  void add_shard(const std::string& file, const std::map<std::string, std::string>* index);
  std::size_t shard_of(const std::string& name) const;

  std::filesystem::path path_;
  Json config_;
  std::vector<SafetensorsFile> shards_;
  std::map<std::string, std::size_t> where_;
  std::vector<std::string> names_;
  std::uint64_t total_bytes_ = 0;
};

inline constexpr std::uint64_t kDefaultShardBytes = 5'000'000'000;

// Writes the weights of a model folder: model.safetensors, or, above `shard_bytes`, model-00001-of-000NN.safetensors
// and an index. Tensors keep the declared order; a shard is closed before the one that would exceed `shard_bytes`.
class ModelFolderWriter {
 public:
  // `folder` must exist. Throws as SafetensorsWriter.
  ModelFolderWriter(const std::filesystem::path& folder, const std::vector<TensorSpec>& tensors,
                    std::uint64_t shard_bytes = kDefaultShardBytes);

  // The next bytes of that tensor. A shard is open from its first byte to its last: writing in the declared order keeps
  // one file open.
  void append(const std::string& name, std::span<const std::byte> bytes);

  // Names every shard, and last the index, so that an interrupted writer leaves no index. Removes weight files of an
  // earlier model that this one does not replace.
  void commit();

  std::size_t shard_count() const { return shards_.size(); }

 private:
  struct Shard {
    std::string file;
    std::vector<TensorSpec> specs;
    std::unique_ptr<SafetensorsWriter> writer;
  };
  Shard& shard_of(const std::string& name);
  void write_index() const;

  std::filesystem::path folder_;
  std::vector<Shard> shards_;
  std::map<std::string, std::size_t> where_;
  std::uint64_t total_bytes_ = 0;
};

}  // namespace qlora
