// What an evaluation has finished so far, kept beside its output: after a kill the same command goes on from there.
#pragma once

#include <chrono>
#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "qlora/core/atomic_file.h"
#include "qlora/core/json.h"

namespace qlora {

// A file of JSON lines: first the evaluation's identity, then a line a finished row. A line is in the system's hands
// when add() returns, so a kill loses none, and on the disk two seconds later, so a power cut loses few.
class PartialResults {
 public:
  static constexpr const char* kFile = "predictions.partial.jsonl";

  // Keeps nothing.
  PartialResults() = default;
  // Goes on with the file in `folder` where there is one; else the first row makes it. A line that was cut off is
  // dropped. Throws UsageError that names the keys in which `identity` differs from the file's.
  PartialResults(const std::filesystem::path& folder, Json identity);
  ~PartialResults();
  PartialResults(PartialResults&& other) noexcept;
  PartialResults(const PartialResults&) = delete;
  PartialResults& operator=(const PartialResults&) = delete;

  // What is known of a row of a task; nullptr where it is to be made.
  const Json* find(const std::string& run, const std::string& task, std::size_t row) const;
  // Throws RuntimeFailure naming the file where it cannot be written, and UsageError where another process writes into
  // the folder.
  void add(const std::string& run, const std::string& task, std::size_t row, const Json& value);

  // Once the reports stand.
  void remove();

 private:
  using RowsOfTask = std::map<std::size_t, Json>;
  void read();
  void open();
  void write(const std::string& line);

  std::filesystem::path path_;  // empty: nothing is kept
  Json identity_;
  std::map<std::pair<std::string, std::string>, RowsOfTask> rows_;  // by run and task
  int descriptor_ = -1;
  std::unique_ptr<FolderLock> lock_;
  std::chrono::steady_clock::time_point synced_;
};

}  // namespace qlora
