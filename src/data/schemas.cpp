#include "qlora/data/schemas.h"

#include <algorithm>
#include <vector>

#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/core/hash.h"

namespace qlora {
namespace fs = std::filesystem;
namespace {

// A db_id is a folder's name: anything else could lead out of db_dir.
bool is_folder_name(const std::string& id) {
  return !id.empty() && id != "." && id != ".." && id.find('/') == std::string::npos &&
         id.find('\0') == std::string::npos;
}

std::map<std::string, Json> read_tables(const fs::path& path) {
  const Json entries = read_json(path);
  if (!entries.is_array()) throw DataError(fmt::format("{}: must be an array of databases", path.string()));
  std::map<std::string, Json> tables;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const auto id = entries[i].is_object() ? entries[i].find("db_id") : entries[i].end();
    if (id == entries[i].end() || !id->is_string()) {
      throw DataError(fmt::format("{}: entry {} has no db_id", path.string(), i));
    }
    tables[id->get<std::string>()] = entries[i];
  }
  if (tables.empty()) throw DataError(fmt::format("{}: holds no database", path.string()));
  return tables;
}

}  // namespace

Schemas::Schemas(const fs::path& tables, const fs::path& db_dir) : tables_path_(tables), db_dir_(db_dir) {
  if (!tables.empty()) tables_ = read_tables(tables);
  if (!db_dir.empty() && !fs::is_directory(db_dir)) {
    throw DataError(fmt::format("db_dir: {}: no such folder", db_dir.string()));
  }
}

fs::path Schemas::database_file(const std::string& db_id) const {
  return db_dir_ / db_id / (db_id + ".sqlite");
}

std::string Schemas::create_tables(const std::string& db_id) const {
  if (!is_folder_name(db_id)) throw DataError(fmt::format("db_id '{}' is no plain name", db_id));
  const std::lock_guard lock(mutex_);
  if (const auto known = cache_.find(db_id); known != cache_.end()) return known->second;
  std::string text;
  const auto entry = tables_.find(db_id);
  if (!db_dir_.empty() && fs::is_regular_file(database_file(db_id))) {
    text = create_tables_from_sqlite(database_file(db_id));
  } else if (entry != tables_.end()) {
    try {
      text = create_tables_from_entry(entry->second);
    } catch (const std::exception& error) {
      throw DataError(
          fmt::format("{}: the entry of '{}' is malformed: {}", tables_path_.string(), db_id, error.what()));
    }
  } else {
    throw DataError(fmt::format("the schema of database '{}' is neither in tables ({}) nor in db_dir ({})", db_id,
                                tables_path_.empty() ? "not given" : tables_path_.string(),
                                db_dir_.empty() ? "not given" : db_dir_.string()));
  }
  return cache_[db_id] = text;
}

std::string Schemas::fingerprint() const {
  std::vector<std::string> ids;
  for (const auto& [id, entry] : tables_) ids.push_back(id);
  if (!db_dir_.empty()) {
    for (const auto& folder : fs::directory_iterator(db_dir_)) {
      const auto id = folder.path().filename().string();
      if (!tables_.contains(id) && fs::is_regular_file(database_file(id))) ids.push_back(id);
    }
  }
  std::sort(ids.begin(), ids.end());
  Sha256 hash;
  for (const auto& id : ids) hash.update(fmt::format("{}\n{}\n", id, create_tables(id)));
  return hash.hex();
}

}  // namespace qlora
