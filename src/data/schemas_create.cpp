// How a database's schema becomes CREATE TABLE text: from its SQLite file, or from its entry of tables.json.
#include <algorithm>
#include <memory>
#include <vector>

#include <fmt/format.h>
#include <sqlite3.h>

#include "qlora/core/error.h"
#include "qlora/data/schemas.h"

namespace qlora {
namespace {

bool is_plain_name(const std::string& name) {
  return !name.empty() && (name[0] < '0' || name[0] > '9') && std::all_of(name.begin(), name.end(), [](char c) {
    return c == '_' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  });
}

std::string quoted(const std::string& name) {
  if (is_plain_name(name)) return name;
  std::string text = "\"";
  for (const char c : name) text += c == '"' ? std::string("\"\"") : std::string(1, c);
  return text + '"';
}

struct Column {
  std::size_t table;
  std::string name;
  std::string type;
};

// Index 0 is "*", which belongs to no table (-1).
std::vector<Column> read_columns(const Json& entry, std::size_t tables) {
  std::vector<Column> columns;
  const Json& names = entry.at("column_names_original");
  const Json& types = entry.at("column_types");
  for (std::size_t i = 0; i < names.size(); ++i) {
    const auto table = names.at(i).at(0).get<std::int64_t>();
    if (table >= static_cast<std::int64_t>(tables)) throw DataError(fmt::format("column {} names table {}", i, table));
    columns.push_back({table < 0 ? tables : static_cast<std::size_t>(table), names.at(i).at(1).get<std::string>(),
                       types.at(i).get<std::string>()});
  }
  return columns;
}

// The names of the primary key's columns that lie in `table`. A composite key is a list inside the list.
std::string primary_key_of(const Json& keys, const std::vector<Column>& columns, std::size_t table) {
  std::string names;
  const auto add = [&](const Json& index) {
    const Column& column = columns.at(index.get<std::size_t>());
    if (column.table == table) names += (names.empty() ? "" : ", ") + quoted(column.name);
  };
  for (const Json& key : keys) {
    if (key.is_array()) {
      for (const Json& part : key) add(part);
    } else {
      add(key);
    }
  }
  return names;
}

std::string create_table(const Json& entry, const std::vector<std::string>& tables, const std::vector<Column>& columns,
                         std::size_t table) {
  std::vector<std::string> lines;
  for (const Column& column : columns) {
    if (column.table == table) lines.push_back(fmt::format("{} {}", quoted(column.name), column.type));
  }
  const std::string key = primary_key_of(entry.value("primary_keys", Json::array()), columns, table);
  if (!key.empty()) lines.push_back(fmt::format("PRIMARY KEY ({})", key));
  for (const Json& pair : entry.value("foreign_keys", Json::array())) {
    const Column& from = columns.at(pair.at(0).get<std::size_t>());
    const Column& to = columns.at(pair.at(1).get<std::size_t>());
    if (from.table != table) continue;
    lines.push_back(fmt::format("FOREIGN KEY ({}) REFERENCES {} ({})", quoted(from.name), quoted(tables.at(to.table)),
                                quoted(to.name)));
  }
  return fmt::format("CREATE TABLE {} (\n  {}\n);", quoted(tables[table]), fmt::join(lines, ",\n  "));
}

[[noreturn]] void fail_sqlite(const std::filesystem::path& file, sqlite3* database) {
  throw DataError(fmt::format("{}: cannot be read as a SQLite database: {}", file.string(), sqlite3_errmsg(database)));
}

// immutable=1: no journal, no lock and no other file is made beside the database.
std::string immutable_uri(const std::filesystem::path& file) {
  std::string uri = "file:";
  for (const char c : std::filesystem::absolute(file).string()) {
    const bool reserved = c == '%' || c == '?' || c == '#';
    uri += reserved ? fmt::format("%{:02x}", static_cast<unsigned char>(c)) : std::string(1, c);
  }
  return uri + "?mode=ro&immutable=1";
}

}  // namespace

std::string create_tables_from_entry(const Json& entry) {
  const auto tables = entry.at("table_names_original").get<std::vector<std::string>>();
  const auto columns = read_columns(entry, tables.size());
  std::vector<std::string> statements;
  for (std::size_t table = 0; table < tables.size(); ++table) {
    statements.push_back(create_table(entry, tables, columns, table));
  }
  return fmt::format("{}", fmt::join(statements, "\n\n"));
}

std::string create_tables_from_sqlite(const std::filesystem::path& file) {
  sqlite3* raw = nullptr;
  const int opened =
      sqlite3_open_v2(immutable_uri(file).c_str(), &raw, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI, nullptr);
  const std::unique_ptr<sqlite3, int (*)(sqlite3*)> database(raw, sqlite3_close);
  if (opened != SQLITE_OK) fail_sqlite(file, raw);
  sqlite3_stmt* raw_statement = nullptr;
  const int prepared = sqlite3_prepare_v2(raw,
                                          "SELECT sql FROM sqlite_master WHERE type = 'table' AND sql IS NOT NULL AND "
                                          "name NOT LIKE 'sqlite\\_%' ESCAPE '\\' "
                                          "ORDER BY rowid",
                                          -1, &raw_statement, nullptr);
  const std::unique_ptr<sqlite3_stmt, int (*)(sqlite3_stmt*)> statement(raw_statement, sqlite3_finalize);
  if (prepared != SQLITE_OK) fail_sqlite(file, raw);
  std::vector<std::string> tables;
  int step = sqlite3_step(raw_statement);
  for (; step == SQLITE_ROW; step = sqlite3_step(raw_statement)) {
    tables.push_back(std::string(reinterpret_cast<const char*>(sqlite3_column_text(raw_statement, 0))) + ";");
  }
  if (step != SQLITE_DONE) fail_sqlite(file, raw);
  return fmt::format("{}", fmt::join(tables, "\n\n"));
}

}  // namespace qlora
