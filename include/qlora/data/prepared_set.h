// The encoded rows of a data set in one block of bytes: in memory, or a file that is mapped.
//
// Layout, little-endian, each section at a multiple of 8 bytes: the header (magic "QLORASET", version, counts, SHA-256
// of all that follows), offsets u64 [rows + 1] in tokens, prompt tokens i32 [rows], labelled targets i32 [rows],
// offsets of the row ids u64 [rows + 1] in bytes, the row ids as JSON, the metadata as JSON, token ids i32 [tokens],
// and one bit a token that says whether the loss is taken on it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "qlora/core/json.h"
#include "qlora/data/row_encoder.h"
#include "qlora/formats/mapped_file.h"

namespace qlora {

// Immutable; movable.
class PreparedSet {
 public:
  PreparedSet() = default;
  // Rows in their order with their ids. metadata: any JSON object (counts, parts of the fingerprint).
  static PreparedSet from_rows(const std::vector<EncodedRow>& rows, const std::vector<Json>& row_ids, Json metadata);
  // Maps a file. Throws DataError naming it where it is missing, truncated, damaged or of another version.
  static PreparedSet open(const std::filesystem::path& file);

  // Throws RuntimeFailure naming the path where it cannot be written whole.
  void save(const std::filesystem::path& file) const;

  std::size_t size() const { return rows_; }
  bool empty() const { return rows_ == 0; }
  std::int64_t tokens() const { return tokens_; }
  std::int64_t targets() const;  // of all rows

  std::span<const std::int32_t> ids(std::size_t row) const;
  std::int64_t length(std::size_t row) const { return static_cast<std::int64_t>(offsets_[row + 1] - offsets_[row]); }
  bool labelled(std::size_t row, std::int64_t token) const;
  // Labelled tokens that have a token before them.
  std::int64_t targets(std::size_t row) const { return target_counts_[row]; }
  // Tokens before the last answer.
  std::int32_t prompt_tokens(std::size_t row) const { return prompt_tokens_[row]; }
  Json row_id(std::size_t row) const;
  const Json& metadata() const { return metadata_; }
  std::int64_t max_length() const;

 private:
  void read(const std::string& origin);
  std::string_view bytes() const { return file_.size() != 0 ? file_.text() : std::string_view(memory_); }

  std::string memory_;
  MappedFile file_;
  std::size_t rows_ = 0;
  std::int64_t tokens_ = 0;
  std::span<const std::uint64_t> offsets_, id_offsets_;
  std::span<const std::int32_t> prompt_tokens_, target_counts_, ids_;
  std::string_view id_text_;
  std::span<const std::uint8_t> mask_;
  Json metadata_;
};

}  // namespace qlora
