// A database's tables and columns as Spider's evaluation sees them, and its foreign keys as column equivalences.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace qlora {

// ASCII lower case; other bytes stay.
std::string lower_ascii(std::string_view text);

// Names in lower case.
struct SpiderSchema {
  std::map<std::string, std::vector<std::string>> tables;  // table -> columns in their order

  bool has_column(const std::string& table, const std::string& column) const;
};

// A column "table.column" -> the column that stands for all that foreign keys tie to it. Exact match compares these.
using ForeignKeyMap = std::map<std::string, std::string>;

struct SpiderDatabase {
  SpiderSchema schema;  // as tables.json has it
  ForeignKeyMap foreign_keys;
};

// All databases of a tables.json, by db_id. Throws DataError where the file is missing or not of that form.
std::map<std::string, SpiderDatabase> read_spider_tables(const std::filesystem::path& tables_json);

// The schema of an SQLite file, opened read-only and immutable: what the official evaluator parses against.
// Throws DataError where the file is missing or no database.
SpiderSchema read_sqlite_schema(const std::filesystem::path& database);

// "file:...?mode=ro&immutable=1", with every character escaped that a URI needs escaped.
std::string immutable_sqlite_uri(const std::filesystem::path& database);

}  // namespace qlora
