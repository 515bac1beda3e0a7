// Rows of a JSON data file: an array of objects, one object a line, or one object over several lines. The file is
// mapped and split into rows once; each row is parsed when it is asked for, so memory stays bounded and rows can be
// parsed from several threads.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "qlora/core/json.h"
#include "qlora/formats/mapped_file.h"

namespace qlora {

class JsonRows {
 public:
  static constexpr int kMaxDepth = 256;  // of nested arrays and objects; deeper is refused

  // Throws DataError (file, line, column) where the file is missing or its outer structure is no array and no lines.
  explicit JsonRows(const std::filesystem::path& path);

  std::size_t size() const { return rows_.size(); }
  // The object of row i, its keys in the file's order. Throws DataError "file:line:column: ..." for broken JSON, and
  // for a row that is no object. Of equal keys the last counts, as in Python.
  Json parse(std::size_t i) const;
  // The bytes of row i as they stand in the file.
  std::string_view source(std::size_t i) const;
  // "file:line" of where row i begins (lines count from 1); "file:line:column" where other rows stand on that line.
  std::string place(std::size_t i) const;

 private:
  struct Extent {
    std::size_t begin, end;    // bytes of the file
    std::size_t line, column;  // of begin, from 1
  };
  void split_lines(std::size_t begin);
  void split_array(std::size_t begin);
  void join_lines_of_one_object(std::size_t begin);
  std::size_t end_of_value(std::size_t begin, std::size_t& line) const;
  std::string place_of(std::size_t byte) const;

  std::string name_;
  MappedFile file_;
  std::vector<Extent> rows_;
};

}  // namespace qlora
