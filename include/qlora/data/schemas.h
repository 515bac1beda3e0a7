// Database schemas as text, from Spider's tables.json and its folder of SQLite files.
#pragma once

#include <filesystem>
#include <map>
#include <mutex>
#include <string>

#include "qlora/core/json.h"

namespace qlora {

// Safe from several threads. Databases are opened read-only and leave no files beside them.
class Schemas {
 public:
  Schemas() = default;
  // Either may be empty. Throws DataError where a file is missing or malformed.
  Schemas(const std::filesystem::path& tables, const std::filesystem::path& db_dir);

  bool has_tables() const { return !tables_.empty(); }
  bool in_tables(const std::string& db_id) const { return tables_.contains(db_id); }

  // The CREATE TABLE statements of a database, one empty line between: those of <db_dir>/<id>/<id>.sqlite where it is
  // there, else made from tables.json. Throws DataError where neither knows the database.
  std::string create_tables(const std::string& db_id) const;

  // SHA-256 over every schema in reach (what create_tables could answer), independent of paths and times.
  std::string fingerprint() const;

 private:
  std::filesystem::path database_file(const std::string& db_id) const;

  std::filesystem::path tables_path_, db_dir_;
  std::map<std::string, Json> tables_;  // db_id -> its entry
  mutable std::mutex mutex_;
  mutable std::map<std::string, std::string> cache_;
};

// CREATE TABLE statements from one entry of tables.json (table_names_original, column_names_original, column_types,
// primary_keys, foreign_keys). Throws nlohmann's exceptions or DataError for an entry that is malformed.
std::string create_tables_from_entry(const Json& entry);

// The text of the tables of a SQLite file in the order of their creation. Throws DataError naming the file.
std::string create_tables_from_sqlite(const std::filesystem::path& file);

}  // namespace qlora
