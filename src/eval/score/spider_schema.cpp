#include "qlora/eval/score/spider_schema.h"

#include <algorithm>
#include <memory>
#include <set>

#include <spdlog/fmt/fmt.h>
#include <sqlite3.h>

#include "qlora/core/error.h"
#include "qlora/core/json.h"

namespace qlora {
namespace {

using Connection = std::unique_ptr<sqlite3, decltype(&sqlite3_close)>;
using Statement = std::unique_ptr<sqlite3_stmt, decltype(&sqlite3_finalize)>;

// Foreign keys joined into groups in the order of the file; a key that touches two groups joins the first alone,
// as the official evaluator has it, and a later group overrides an earlier one.
ForeignKeyMap foreign_key_map(const std::vector<std::string>& columns,
                              const std::vector<std::pair<size_t, size_t>>& keys) {
  std::vector<std::set<size_t>> groups;
  for (const auto& [from, to] : keys) {
    auto group = std::find_if(groups.begin(), groups.end(),
                              [&](const std::set<size_t>& g) { return g.count(from) > 0 || g.count(to) > 0; });
    if (group == groups.end()) group = groups.insert(groups.end(), std::set<size_t>{});
    group->insert({from, to});
  }
  ForeignKeyMap map;
  for (const auto& group : groups) {
    for (size_t column : group) map[columns.at(column)] = columns.at(*group.begin());
  }
  return map;
}

SpiderDatabase parse_entry(const Json& entry) {
  SpiderDatabase database;
  std::vector<std::string> tables;
  for (const auto& name : entry.at("table_names_original")) tables.push_back(lower_ascii(name.get<std::string>()));
  for (const auto& table : tables) database.schema.tables[table];
  std::vector<std::string> columns;
  for (const auto& column : entry.at("column_names_original")) {
    const int table = column.at(0).get<int>();
    const std::string name = lower_ascii(column.at(1).get<std::string>());
    columns.push_back(table < 0 ? "*" : tables.at(static_cast<size_t>(table)) + "." + name);
    if (table >= 0) database.schema.tables[tables[static_cast<size_t>(table)]].push_back(name);
  }
  std::vector<std::pair<size_t, size_t>> keys;
  for (const auto& key : entry.at("foreign_keys")) keys.emplace_back(key.at(0).get<size_t>(), key.at(1).get<size_t>());
  database.foreign_keys = foreign_key_map(columns, keys);
  return database;
}

std::vector<std::string> read_texts(sqlite3* db, const std::string& sql, const std::filesystem::path& path) {
  sqlite3_stmt* raw = nullptr;
  const int rc = sqlite3_prepare_v2(db, sql.c_str(), -1, &raw, nullptr);
  const Statement statement(raw, sqlite3_finalize);
  std::vector<std::string> texts;
  int step = rc;
  while (rc == SQLITE_OK && (step = sqlite3_step(statement.get())) == SQLITE_ROW) {
    const auto* text = reinterpret_cast<const char*>(sqlite3_column_text(statement.get(), 0));
    texts.emplace_back(text == nullptr ? "" : text);
  }
  if (step != SQLITE_DONE) {
    throw DataError(fmt::format("{}: SQLite cannot read its schema: {}", path.string(), sqlite3_errmsg(db)));
  }
  return texts;
}

}  // namespace

std::string lower_ascii(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return out;
}

bool SpiderSchema::has_column(const std::string& table, const std::string& column) const {
  const auto found = tables.find(table);
  return found != tables.end() && std::find(found->second.begin(), found->second.end(), column) != found->second.end();
}

std::map<std::string, SpiderDatabase> read_spider_tables(const std::filesystem::path& tables_json) {
  std::map<std::string, SpiderDatabase> databases;
  const Json entries = read_json(tables_json);
  size_t index = 0;
  try {
    for (const auto& entry : entries) {
      databases[entry.at("db_id").get<std::string>()] = parse_entry(entry);
      ++index;
    }
  } catch (const std::exception& error) {  // nlohmann's own errors and .at() out of range
    throw DataError(fmt::format("{}: entry {} is not as Spider's tables.json has it: {}", tables_json.string(), index,
                                error.what()));
  }
  return databases;
}

std::string immutable_sqlite_uri(const std::filesystem::path& database) {
  std::string uri = "file:";
  for (unsigned char c : std::filesystem::absolute(database).string()) {
    const bool plain = std::isalnum(c) != 0 || c == '/' || c == '-' || c == '_' || c == '.';
    uri += plain ? std::string(1, static_cast<char>(c)) : fmt::format("%{:02X}", c);
  }
  return uri + "?mode=ro&immutable=1";
}

SpiderSchema read_sqlite_schema(const std::filesystem::path& database) {
  sqlite3* raw = nullptr;
  const int rc = sqlite3_open_v2(immutable_sqlite_uri(database).c_str(), &raw,
                                 SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX, nullptr);
  const Connection db(raw, sqlite3_close);
  if (rc != SQLITE_OK) {
    throw DataError(fmt::format("{}: cannot be opened as an SQLite database: {}; check `db_dir`", database.string(),
                                sqlite3_errstr(rc)));
  }
  SpiderSchema schema;
  for (const auto& table : read_texts(db.get(), "SELECT name FROM sqlite_master WHERE type = 'table'", database)) {
    std::string quoted;
    for (char c : table) quoted += c == '\'' ? std::string("''") : std::string(1, c);
    auto& columns = schema.tables[lower_ascii(table)];
    for (const auto& column : read_texts(db.get(), "SELECT name FROM pragma_table_info('" + quoted + "')", database)) {
      columns.push_back(lower_ascii(column));
    }
  }
  return schema;
}

}  // namespace qlora
