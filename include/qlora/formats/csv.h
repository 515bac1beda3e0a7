// Comma-separated values.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

namespace qlora {

struct CsvRecord {
  std::size_t line = 0;  // of its first character, from 1
  std::vector<std::string> fields;
};

// The records of a file as RFC 4180 has them: fields in double quotes hold commas, line ends, and doubled quotes for
// one; a byte order mark at the beginning and empty lines are skipped. Throws DataError with file and line where the
// file cannot be read or a quote stays open.
std::vector<CsvRecord> read_csv(const std::filesystem::path& path);

// One line, with its end (CR LF): fields that hold commas, quotes, line ends or outer spaces stand in quotes.
std::string csv_line(const std::vector<std::string>& fields);

}  // namespace qlora
