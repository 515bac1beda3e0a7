#include "qlora/formats/csv.h"

#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/formats/mapped_file.h"

namespace qlora {

std::vector<CsvRecord> read_csv(const std::filesystem::path& path) {
  const MappedFile file(path);
  const std::string_view text = without_byte_order_mark(file.text());
  std::vector<CsvRecord> records;
  std::size_t line = 1, opened = 0;
  bool quoted = false;
  CsvRecord record{1, {""}};
  const auto end_record = [&] {
    if (record.fields.size() > 1 || !record.fields[0].empty()) records.push_back(std::move(record));
    record = {line, {""}};
  };
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const bool pair = i + 1 < text.size() && text[i + 1] == (c == '\r' ? '\n' : '"');
    if (c == '\n') ++line;
    if (quoted) {
      if (c != '"' || pair) record.fields.back() += c;
      if (c == '"') pair ? void(++i) : void(quoted = false);
    } else if (c == '"' && record.fields.back().empty()) {
      quoted = true;
      opened = line;
    } else if (c == ',') {
      record.fields.emplace_back();
    } else if (c == '\n') {
      end_record();
    } else if (c != '\r' || !pair) {
      record.fields.back() += c;
    }
  }
  if (quoted) throw DataError(fmt::format("{}:{}: a quoted field does not end", path.string(), opened));
  end_record();
  return records;
}

std::string csv_line(const std::vector<std::string>& fields) {
  std::string line;
  for (const std::string& field : fields) {
    if (&field != fields.data()) line += ',';
    const bool plain =
        field.find_first_of(",\"\r\n") == std::string::npos && !field.starts_with(' ') && !field.ends_with(' ');
    if (plain) {
      line += field;
      continue;
    }
    line += '"';
    for (const char c : field) line += c == '"' ? std::string("\"\"") : std::string(1, c);
    line += '"';
  }
  return line + "\r\n";
}

}  // namespace qlora
