// The rows of one or several data files, in the files' order, with the place of each.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "qlora/core/json.h"
#include "qlora/data/options.h"
#include "qlora/data/row_format.h"
#include "qlora/formats/json_rows.h"

namespace qlora {

// Immutable after opening; row() may be called from several threads.
class Dataset {
 public:
  // What a folder is searched for where an entry names no split.
  enum class Role { kTraining, kEvaluation };

  Dataset() = default;
  // Opens the files of all entries and tells the format of each. An entry's weight w takes floor(w) times all of its
  // rows and once a part of them that `seed` draws. Throws DataError for a file that is missing or empty, UsageError
  // for containers and sources that are not built yet.
  Dataset(const std::vector<DatasetEntry>& entries, Role role, std::uint64_t seed);

  std::size_t size() const { return refs_.size(); }
  bool empty() const { return refs_.empty(); }

  // Throws DataError "file:line: ..." for a malformed row.
  Example example(std::size_t i, const FormatContext& context, const std::optional<std::string>& system_prompt) const;
  std::string place(std::size_t i) const;
  // Which of all rows that were read: a row that its entry's weight takes again has the same.
  std::uint64_t number(std::size_t i) const { return refs_[i].number; }
  const RowFormat& format(std::size_t i) const { return *sources_[refs_[i].source].format; }

  // The formats that occur.
  std::vector<const RowFormat*> formats() const;

  // Moves `count` rows, drawn by `seed`, into a data set of their own; both keep the files' order.
  Dataset split_off(std::size_t count, std::uint64_t seed);

  // SHA-256 over the bytes and formats of all rows in order: neither paths nor times nor white space between rows
  // count.
  std::string fingerprint() const;

 private:
  struct Source {
    std::shared_ptr<const JsonRows> rows;
    const RowFormat* format;
  };
  struct Ref {
    std::uint32_t source;
    std::uint32_t row;     // of the source
    std::uint64_t number;  // of all rows that were read, before weights and splits: the row's id where it has none
  };
  void add_entry(const DatasetEntry& entry, Role role, std::uint64_t seed, std::uint64_t& number);

  std::vector<Source> sources_;
  std::vector<Ref> refs_;
};

// The data files that an entry means: itself, or those of a folder or a repository of the Hub that belong to its split,
// by name. What is not in the cache is downloaded. Throws as HubRepository, too. Exposed for tests.
std::vector<std::filesystem::path> files_of(const DatasetEntry& entry, Dataset::Role role);

}  // namespace qlora
