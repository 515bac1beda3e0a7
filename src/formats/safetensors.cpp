#include "qlora/formats/safetensors.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/core/json.h"
#include "qlora/core/quote.h"

namespace qlora {
namespace {

constexpr std::uint64_t kLengthBytes = 8;

std::uint64_t header_length(const MappedFile& file, const std::string& origin) {
  if (file.size() < kLengthBytes) {
    throw DataError(fmt::format("{}: {} bytes are too few for a safetensors file", origin, file.size()));
  }
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), kLengthBytes);
  if (length > kSafetensorsLongestHeader) {
    throw DataError(
        fmt::format("{}: its header would be {} bytes long; at most {} are allowed: it is no safetensors file", origin,
                    length, kSafetensorsLongestHeader));
  }
  if (length > file.size() - kLengthBytes) {
    throw DataError(fmt::format("{}: its header should be {} bytes long, but the file ends after {}: it was cut short",
                                origin, length, file.size() - kLengthBytes));
  }
  return length;
}

Json entry_json(const TensorSpec& spec, std::uint64_t begin, std::uint64_t end) {
  return {{"dtype", element_name(spec.type)}, {"shape", spec.shape}, {"data_offsets", {begin, end}}};
}

struct Place {
  std::string name;
  std::uint64_t begin;  // in the file
  std::uint64_t end;
};

// Where everything goes in a file to be written.
struct Layout {
  std::string head;  // length and JSON, padded to 8
  std::vector<Place> places;
  std::uint64_t file_bytes = 0;
};

Layout lay_out(std::vector<TensorSpec> tensors, const StringMap& metadata) {
  std::stable_sort(tensors.begin(), tensors.end(), [](const TensorSpec& a, const TensorSpec& b) {
    return element_size(a.type) > element_size(b.type);
  });
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  Layout layout;
  std::uint64_t offset = 0;
  for (const TensorSpec& spec : tensors) {
    if (spec.name == "__metadata__") throw DataError("a tensor cannot be named '__metadata__'");
    const std::uint64_t end = offset + static_cast<std::uint64_t>(spec.byte_count());
    // Appended without looking the name up: the object is a list, and duplicates show in the caller's map.
    header.get_ref<Json::object_t&>().emplace_back(spec.name, entry_json(spec, offset, end));
    layout.places.push_back({spec.name, offset, end});
    offset = end;
  }
  const std::string json = header.dump();
  const std::uint64_t length = (json.size() + 7) / 8 * 8;
  if (length > kSafetensorsLongestHeader) {
    throw DataError(fmt::format("{} tensors make a header of {} bytes; at most {} are allowed: write several files",
                                tensors.size(), length, kSafetensorsLongestHeader));
  }
  layout.head.resize(kLengthBytes);
  std::memcpy(layout.head.data(), &length, kLengthBytes);
  layout.head += json;
  layout.head.resize(kLengthBytes + length, ' ');
  for (Place& place : layout.places) {
    place.begin += layout.head.size();
    place.end += layout.head.size();
  }
  layout.file_bytes = layout.head.size() + offset;
  return layout;
}

}  // namespace

std::int64_t TensorSpec::byte_count() const {
  const std::optional<std::int64_t> count = element_count(shape, element_size(type));
  if (!count) throw DataError(fmt::format("tensor {}: its shape {} is too large", quote_name(name), shape_text(shape)));
  return *count * static_cast<std::int64_t>(element_size(type));
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : path_(path), file_(path) {
  const std::string origin = path.string();
  const std::uint64_t length = header_length(file_, origin);
  data_begin_ = kLengthBytes + length;
  header_ = parse_safetensors_header(file_.text().substr(kLengthBytes, length), file_.size() - data_begin_, origin);
  by_name_.resize(header_.entries.size());
  std::iota(by_name_.begin(), by_name_.end(), 0U);
  std::sort(by_name_.begin(), by_name_.end(), [this](std::uint32_t a, std::uint32_t b) {
    return header_.entries[a].spec.name < header_.entries[b].spec.name;
  });
}

const SafetensorsEntry* SafetensorsFile::find(std::string_view name) const {
  const auto at = std::lower_bound(
      by_name_.begin(), by_name_.end(), name,
      [this](std::uint32_t index, std::string_view wanted) { return header_.entries[index].spec.name < wanted; });
  if (at == by_name_.end() || header_.entries[*at].spec.name != name) return nullptr;
  return &header_.entries[*at];
}

HostTensor SafetensorsFile::tensor(std::string_view name) const {
  const SafetensorsEntry* entry = find(name);
  if (entry == nullptr) throw DataError(fmt::format("{}: it has no tensor {}", path_.string(), quote_name(name)));
  return tensor(*entry);
}

HostTensor SafetensorsFile::tensor(const SafetensorsEntry& entry) const {
  return {entry.spec.type, entry.spec.shape, {file_.data() + data_begin_ + entry.begin, entry.end - entry.begin}};
}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorSpec> tensors,
                                     StringMap metadata)
    : path_(path), file_(path) {
  const Layout layout = lay_out(std::move(tensors), metadata);
  for (const Place& place : layout.places) {
    if (!left_.try_emplace(place.name, Left{place.begin, place.end}).second) {
      throw DataError(fmt::format("{}: tensor {} was declared twice", path.string(), quote_name(place.name)));
    }
  }
  file_bytes_ = layout.file_bytes;
  file_.write_at(0, layout.head);
}

void SafetensorsWriter::append(const std::string& name, std::span<const std::byte> bytes) {
  const auto left = left_.find(name);
  if (left == left_.end()) {
    throw RuntimeFailure(fmt::format("{}: tensor {} was not declared", path_.string(), quote_name(name)));
  }
  auto& [next, end] = left->second;
  if (bytes.size() > end - next) {
    throw RuntimeFailure(fmt::format("{}: tensor {} got {} bytes more than its shape takes", path_.string(),
                                     quote_name(name), bytes.size() - (end - next)));
  }
  file_.write_at(next, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  next += bytes.size();
}

void SafetensorsWriter::commit() {
  for (const auto& [name, left] : left_) {
    if (left.next != left.end) {
      throw RuntimeFailure(
          fmt::format("{}: tensor {} lacks {} bytes", path_.string(), quote_name(name), left.end - left.next));
    }
  }
  file_.commit();
}

void write_safetensors(const std::filesystem::path& path, const std::map<std::string, HostTensor>& tensors,
                       StringMap metadata) {
  std::vector<TensorSpec> specs;
  for (const auto& [name, tensor] : tensors) specs.push_back({name, tensor.type, tensor.shape});
  SafetensorsWriter writer(path, std::move(specs), std::move(metadata));
  for (const auto& [name, tensor] : tensors) writer.append(name, tensor.bytes);
  writer.commit();
}

}  // namespace qlora
