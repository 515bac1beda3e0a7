// safetensors files: u64 little-endian length, JSON header, data. Read by memory map, written piece by piece.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "qlora/core/atomic_file.h"
#include "qlora/core/host_tensor.h"
#include "qlora/formats/mapped_file.h"

namespace qlora {

inline constexpr std::uint64_t kSafetensorsLongestHeader = 100'000'000;

// What a tensor is called and looks like.
struct TensorSpec {
  std::string name;
  ElementType type = ElementType::kF32;
  Shape shape;

  // Throws DataError, naming the tensor, where the size is negative or leaves int64.
  std::int64_t byte_count() const;
};

struct SafetensorsEntry {
  TensorSpec spec;
  std::uint64_t begin = 0;  // of its bytes, counted from the end of the header
  std::uint64_t end = 0;
};

using StringMap = std::map<std::string, std::string>;

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // by offset: they cover the data without a hole or an overlap
  StringMap metadata;
};

// Parses and checks the JSON of a header before `data_bytes` of data: every rule of the format. Memory stays in
// proportion to the text whatever it holds. Throws DataError "origin: ..." naming the tensor or the byte.
SafetensorsHeader parse_safetensors_header(std::string_view json, std::uint64_t data_bytes, const std::string& origin);

// A checked file, mapped. Views of its tensors live as long as it does.
class SafetensorsFile {
 public:
  // Throws DataError for a file that is missing, no regular file, or breaks a rule of the format.
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  const StringMap& metadata() const { return header_.metadata; }
  // In the order of their bytes, which is the order to read them in.
  const std::vector<SafetensorsEntry>& entries() const { return header_.entries; }
  bool contains(std::string_view name) const { return find(name) != nullptr; }
  const SafetensorsEntry* find(std::string_view name) const;
  // Throws DataError naming file and tensor where there is none.
  HostTensor tensor(std::string_view name) const;
  HostTensor tensor(const SafetensorsEntry& entry) const;

 private:
  std::filesystem::path path_;
  MappedFile file_;
  SafetensorsHeader header_;
  std::vector<std::uint32_t> by_name_;  // indices into entries, sorted by name
  std::uint64_t data_begin_ = 0;
};

// Writes a file whose tensors are all declared first. The data may come in any order and in pieces; nothing is kept in
// memory. Larger element types come first in the file, else the declared order holds, so that every tensor is aligned
// to its element (other readers need that).
class SafetensorsWriter {
 public:
  // Creates a temporary file beside `path`. Throws DataError for a name declared twice or a
  // name "__metadata__", RuntimeFailure where the disk is full or the folder cannot be written.
  SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorSpec> tensors,
                    StringMap metadata = {{"format", "pt"}});

  // The next bytes of that tensor. Throws RuntimeFailure for an unknown name, too many bytes, or a failed write.
  void append(const std::string& name, std::span<const std::byte> bytes);

  // Flushes to the disk and gives the file its name, replacing what was there. Throws RuntimeFailure where a tensor
  // lacks bytes. Without commit() the destructor removes the unfinished file, and what was at `path` stays.
  void commit();

  std::uint64_t file_bytes() const { return file_bytes_; }

 private:
  struct Left {
    std::uint64_t next;  // the byte of the file that comes next
    std::uint64_t end;
  };
  std::map<std::string, Left> left_;
  std::uint64_t file_bytes_ = 0;
  std::filesystem::path path_;
  AtomicFile file_;
};

// All at once, for small files.
void write_safetensors(const std::filesystem::path& path, const std::map<std::string, HostTensor>& tensors,
                       StringMap metadata = {{"format", "pt"}});

}  // namespace qlora
