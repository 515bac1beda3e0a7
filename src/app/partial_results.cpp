#include "qlora/app/partial_results.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/formats/mapped_file.h"
#include "qlora/train/trainer.h"

namespace qlora {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
constexpr auto kSyncEvery = std::chrono::seconds(2);

[[noreturn]] void fail(const fs::path& path, const char* action) {
  throw RuntimeFailure(fmt::format("{}: cannot {}: {}; the rows that are finished stay in it", path.string(), action,
                                   std::strerror(errno)));
}

// The next whole line of `text` from `begin` on as an object; `begin` moves behind it. Null where there is none.
Json next_object(std::string_view text, std::size_t& begin) {
  const std::size_t end = text.find('\n', begin);
  if (end == std::string_view::npos) return nullptr;
  Json line = Json::parse(text.substr(begin, end - begin), nullptr, /*allow_exceptions=*/false);
  if (!line.is_object()) return nullptr;
  begin = end + 1;
  return line;
}

}  // namespace

PartialResults::PartialResults(const fs::path& folder, Json identity) : identity_(std::move(identity)) {
  if (folder.empty()) return;
  path_ = folder / kFile;
  if (fs::exists(path_)) read();
}

PartialResults::PartialResults(PartialResults&& other) noexcept
    : path_(std::move(other.path_)),
      identity_(std::move(other.identity_)),
      rows_(std::move(other.rows_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      lock_(std::move(other.lock_)),
      synced_(other.synced_) {}

PartialResults::~PartialResults() {
  if (descriptor_ >= 0) close(descriptor_);
}

void PartialResults::read() {
  const MappedFile file(path_);
  std::size_t end = 0, rows = 0;
  const Json earlier = next_object(file.text(), end);
  if (earlier.is_null()) throw DataError(fmt::format("{}: is no list of finished rows; remove it", path_.string()));
  const std::vector<std::string> changed = changed_keys(earlier, identity_);
  if (!changed.empty()) {
    throw UsageError(
        fmt::format("{}: an unfinished evaluation with another {} left it; finish that one, name another output_dir, "
                    "or remove the file to start anew",
                    path_.string(), fmt::join(changed, ", ")));
  }
  for (Json line = next_object(file.text(), end); !line.is_null(); line = next_object(file.text(), end), ++rows) {
    RowsOfTask& rows_of_task = rows_[{line.value("run", ""), line.value("task", "")}];
    rows_of_task.insert_or_assign(line.value("row", std::size_t{0}), line);
  }
  if (end < file.size() && truncate(path_.c_str(), static_cast<off_t>(end)) != 0) fail(path_, "cut off its last line");
  log_info("going on behind the {} rows of {}", rows, path_.string());
}

const Json* PartialResults::find(const std::string& run, const std::string& task, std::size_t row) const {
  const auto rows = rows_.find({run, task});
  if (rows == rows_.end()) return nullptr;
  const auto found = rows->second.find(row);
  return found == rows->second.end() ? nullptr : &found->second;
}

void PartialResults::open() {
  if (!fs::exists(path_)) write_file_atomically(path_, identity_.dump() + "\n");
  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  if (descriptor_ < 0) fail(path_, "open it");
  lock_ = std::make_unique<FolderLock>(path_.parent_path());
  synced_ = Clock::now();
}

void PartialResults::add(const std::string& run, const std::string& task, std::size_t row, const Json& value) {
  if (path_.empty()) return;
  if (descriptor_ < 0) open();
  Json line{{"run", run}, {"task", task}, {"row", row}};
  line.update(value);
  write(line.dump() + "\n");
  if (Clock::now() - synced_ < kSyncEvery) return;
  if (fdatasync(descriptor_) != 0) fail(path_, "sync it to the disk");
  synced_ = Clock::now();
}

void PartialResults::write(const std::string& line) {
  for (std::string_view left = line; !left.empty();) {
    const ssize_t written = ::write(descriptor_, left.data(), left.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) fail(path_, "write to it");
    left.remove_prefix(static_cast<std::size_t>(written));
  }
}

void PartialResults::remove() {
  if (!path_.empty()) fs::remove(path_);
}

}  // namespace qlora
