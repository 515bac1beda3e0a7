// A small database for tests of scores: singers and concerts, made anew in a folder that goes away with it.
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>

#include <sqlite3.h>

namespace qlora {

class SampleDatabase {
 public:
  SampleDatabase() {
    std::string name = (std::filesystem::temp_directory_path() / "qlora-sample-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
    folder_ = name;
    std::filesystem::create_directories(folder_ / "database" / "music");
    run(R"sql(
      CREATE TABLE singer (singer_id INTEGER PRIMARY KEY, name TEXT, country TEXT, age INTEGER);
      CREATE TABLE concert (concert_id INTEGER PRIMARY KEY, singer_id INTEGER REFERENCES singer(singer_id), year INTEGER,
                            fee REAL);
      INSERT INTO singer VALUES (1, 'Ann', 'France', 30), (2, 'Bob', 'Peru', 41), (3, 'Cid', 'France', 25),
                                (4, CAST(x'5aff6f' AS TEXT), 'Chad', 41);
      INSERT INTO concert VALUES (1, 1, 2014, 10.0), (2, 1, 2015, 20.5), (3, 2, 2015, 30.0), (4, 3, 2016, 10.0);
    )sql");
    std::ofstream(folder_ / "tables.json") << R"json([{
      "db_id": "music",
      "table_names_original": ["singer", "concert"],
      "column_names_original": [[-1, "*"], [0, "Singer_ID"], [0, "Name"], [0, "Country"], [0, "Age"],
                                [1, "Concert_ID"], [1, "Singer_ID"], [1, "Year"], [1, "Fee"]],
      "foreign_keys": [[6, 1]], "primary_keys": [1, 5]}])json";
  }
  ~SampleDatabase() { std::filesystem::remove_all(folder_); }
  SampleDatabase(const SampleDatabase&) = delete;
  SampleDatabase& operator=(const SampleDatabase&) = delete;

  void run(const std::string& sql) const { run_on(path(), sql); }

  static void run_on(const std::string& file, const std::string& sql) {
    sqlite3* db = nullptr;
    char* error = nullptr;
    sqlite3_open(file.c_str(), &db);
    const int rc = sqlite3_exec(db, sql.c_str(), nullptr, nullptr, &error);
    const std::string message = error == nullptr ? "" : error;
    sqlite3_free(error);
    sqlite3_close(db);
    if (rc != SQLITE_OK) throw std::runtime_error(message);
  }

  // A file beside the database, with the same contents and then changed.
  void add_variant(const std::string& name, const std::string& sql) const {
    const std::filesystem::path file = folder_ / "database" / "music" / name;
    std::filesystem::copy_file(path(), file);
    run_on(file.string(), sql);
  }

  std::string bytes() const {
    std::ifstream in(path(), std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }

  // Every path below the folder.
  size_t count_files() const {
    return static_cast<size_t>(std::distance(std::filesystem::recursive_directory_iterator(folder_), {}));
  }

  const std::filesystem::path& folder() const { return folder_; }
  std::string path() const { return (folder_ / "database" / "music" / "music.sqlite").string(); }
  std::string tables() const { return (folder_ / "tables.json").string(); }

 private:
  std::filesystem::path folder_;
};

}  // namespace qlora
