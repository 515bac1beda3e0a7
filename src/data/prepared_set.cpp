#include "qlora/data/prepared_set.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <numeric>

#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/core/hash.h"

namespace qlora {
namespace {

static_assert(std::endian::native == std::endian::little, "prepared sets are little-endian");

constexpr std::array<char, 8> kMagic = {'Q', 'L', 'O', 'R', 'A', 'S', 'E', 'T'};
constexpr std::uint32_t kVersion = 1;

struct Header {
  std::array<char, 8> magic;
  std::uint32_t version;
  std::uint32_t header_bytes;
  std::uint64_t rows, tokens, id_bytes, metadata_bytes;
  std::array<char, 64> sha256;  // of all bytes behind the header
};
static_assert(sizeof(Header) == 112);

std::size_t padded(std::size_t bytes) {
  return (bytes + 7) / 8 * 8;
}

template <class T>
void append(std::string& bytes, const std::vector<T>& values) {
  bytes.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
  bytes.resize(padded(bytes.size()));
}

std::vector<std::uint8_t> mask_of(const std::vector<EncodedRow>& rows, std::size_t tokens) {
  std::vector<std::uint8_t> mask((tokens + 7) / 8);
  std::size_t at = 0;
  for (const auto& row : rows) {
    for (const auto labelled : row.labelled) {
      mask[at / 8] = static_cast<std::uint8_t>(mask[at / 8] | labelled << at % 8);
      ++at;
    }
  }
  return mask;
}

// Hands out the sections of a block one after the other; a section that would pass the end throws.
class Sections {
 public:
  Sections(std::string_view bytes, const std::string& origin) : rest_(bytes), origin_(origin) {}

  template <class T>
  std::span<const T> take(std::uint64_t count) {
    if (count > rest_.size() / sizeof(T) || padded(count * sizeof(T)) > rest_.size()) {
      throw DataError(fmt::format("{}: the prepared set is truncated; run prepare again", origin_));
    }
    const auto* data = reinterpret_cast<const T*>(rest_.data());
    rest_.remove_prefix(padded(count * sizeof(T)));
    return {data, static_cast<std::size_t>(count)};
  }
  bool at_end() const { return rest_.empty(); }

 private:
  std::string_view rest_;
  const std::string& origin_;
};

// Offsets begin at 0, never fall and end at `end`.
bool are_offsets(std::span<const std::uint64_t> offsets, std::uint64_t end) {
  return offsets.front() == 0 && offsets.back() == end && std::is_sorted(offsets.begin(), offsets.end());
}

Header read_header(std::string_view bytes, const std::string& origin) {
  Header header{};
  if (bytes.size() < sizeof(Header) || std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) != 0) {
    throw DataError(fmt::format("{}: is no prepared set (prepare writes them)", origin));
  }
  std::memcpy(&header, bytes.data(), sizeof(Header));
  if (header.version != kVersion || header.header_bytes != sizeof(Header)) {
    throw DataError(fmt::format("{}: the prepared set has version {}, this program reads {}; run prepare again", origin,
                                header.version, kVersion));
  }
  return header;
}

}  // namespace

PreparedSet PreparedSet::from_rows(const std::vector<EncodedRow>& rows, const std::vector<Json>& row_ids,
                                   Json metadata) {
  std::vector<std::uint64_t> offsets = {0}, id_offsets = {0};
  std::vector<std::int32_t> prompt_tokens, targets, ids;
  std::string id_text;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    ids.insert(ids.end(), rows[i].ids.begin(), rows[i].ids.end());
    offsets.push_back(ids.size());
    prompt_tokens.push_back(rows[i].prompt_tokens);
    targets.push_back(static_cast<std::int32_t>(rows[i].targets()));
    id_text += row_ids.at(i).dump(-1, ' ', false, Json::error_handler_t::replace);
    id_offsets.push_back(id_text.size());
  }
  const std::string metadata_text = metadata.dump(-1, ' ', false, Json::error_handler_t::replace);

  PreparedSet set;
  std::string& bytes = set.memory_;
  bytes.resize(sizeof(Header));
  append(bytes, offsets);
  append(bytes, prompt_tokens);
  append(bytes, targets);
  append(bytes, id_offsets);
  append(bytes, std::vector<char>(id_text.begin(), id_text.end()));
  append(bytes, std::vector<char>(metadata_text.begin(), metadata_text.end()));
  append(bytes, ids);
  append(bytes, mask_of(rows, ids.size()));

  Header header{kMagic, kVersion, sizeof(Header), rows.size(), ids.size(), id_text.size(), metadata_text.size(), {}};
  const std::string hash = sha256(std::string_view(bytes).substr(sizeof(Header)));
  std::copy(hash.begin(), hash.end(), header.sha256.begin());
  std::memcpy(bytes.data(), &header, sizeof(Header));
  set.read("the prepared set in memory");
  return set;
}

PreparedSet PreparedSet::open(const std::filesystem::path& file) {
  PreparedSet set;
  set.file_ = MappedFile(file);
  set.read(file.string());
  return set;
}

void PreparedSet::read(const std::string& origin) {
  const Header header = read_header(bytes(), origin);
  const auto content = bytes().substr(sizeof(Header));
  if (sha256(content) != std::string_view(header.sha256.data(), header.sha256.size())) {
    throw DataError(fmt::format("{}: the prepared set is damaged (its SHA-256 differs); run prepare again", origin));
  }
  // Beyond this, counts cannot be of this file; sums below then cannot overflow.
  if (header.rows > content.size() || header.tokens > content.size()) {
    throw DataError(fmt::format("{}: the prepared set is truncated; run prepare again", origin));
  }
  Sections sections(content, origin);
  offsets_ = sections.take<std::uint64_t>(header.rows + 1);
  prompt_tokens_ = sections.take<std::int32_t>(header.rows);
  target_counts_ = sections.take<std::int32_t>(header.rows);
  id_offsets_ = sections.take<std::uint64_t>(header.rows + 1);
  const auto id_text = sections.take<char>(header.id_bytes);
  const auto metadata = sections.take<char>(header.metadata_bytes);
  ids_ = sections.take<std::int32_t>(header.tokens);
  mask_ = sections.take<std::uint8_t>((header.tokens + 7) / 8);
  if (!sections.at_end() || !are_offsets(offsets_, header.tokens) || !are_offsets(id_offsets_, header.id_bytes)) {
    throw DataError(fmt::format("{}: the prepared set contradicts itself; run prepare again", origin));
  }
  id_text_ = {id_text.data(), id_text.size()};
  metadata_ = parse_json({metadata.data(), metadata.size()}, origin);
  rows_ = header.rows;
  tokens_ = static_cast<std::int64_t>(header.tokens);
}

void PreparedSet::save(const std::filesystem::path& file) const {
  write_file(file, bytes());
}

std::int64_t PreparedSet::targets() const {
  return std::accumulate(target_counts_.begin(), target_counts_.end(), std::int64_t{0});
}

std::span<const std::int32_t> PreparedSet::ids(std::size_t row) const {
  return ids_.subspan(offsets_[row], offsets_[row + 1] - offsets_[row]);
}

bool PreparedSet::labelled(std::size_t row, std::int64_t token) const {
  const auto at = offsets_[row] + static_cast<std::uint64_t>(token);
  return (mask_[at / 8] >> at % 8 & 1) != 0;
}

Json PreparedSet::row_id(std::size_t row) const {
  return Json::parse(id_text_.substr(id_offsets_[row], id_offsets_[row + 1] - id_offsets_[row]));
}

std::int64_t PreparedSet::max_length() const {
  std::int64_t longest = 0;
  for (std::size_t row = 0; row < rows_; ++row) longest = std::max(longest, length(row));
  return longest;
}

}  // namespace qlora
