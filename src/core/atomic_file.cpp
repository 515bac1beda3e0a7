// The system calls of an atomic write, in their order, each checked.
#include "qlora/core/atomic_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <random>
#include <system_error>
#include <utility>
#include <vector>

#include <spdlog/fmt/fmt.h>

#include "qlora/core/error.h"
#include "qlora/core/log.h"

namespace qlora {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail_on(const std::string& action, const fs::path& path, int error, std::uint64_t bytes) {
  const char* hint = error == ENOSPC || error == EDQUOT ? "; free some space or choose another output_dir" : "";
  throw RuntimeFailure(
      fmt::format("{}: cannot {} ({} bytes): {}{}", path.string(), action, bytes, std::strerror(error), hint));
}

// Makes names that no other process or thread has, and that nobody else gives.
constexpr std::string_view kNonce = "qlora-";

std::string nonce() {
  static std::atomic<std::uint64_t> counter{std::random_device{}()};
  return fmt::format("{}{:x}-{:x}", kNonce, getpid(), counter++);
}

bool is_temporary(std::string_view name) {
  constexpr std::string_view kDigits = "0123456789abcdef-";
  const std::size_t at = name.rfind(kNonce);
  return name.starts_with("tmp-") && at != std::string_view::npos && at + kNonce.size() < name.size() &&
         name.find_first_not_of(kDigits, at + kNonce.size()) == std::string_view::npos;
}

void make_parents(const fs::path& path) {
  const fs::path parent = path.parent_path();
  std::error_code error;
  if (!parent.empty()) fs::create_directories(parent, error);
  if (error) fail_on("make its folder", path, error.value(), 0);
}

fs::path folder_of(const fs::path& path) {
  return path.parent_path().empty() ? fs::path(".") : path.parent_path();
}

void sync_path(const fs::path& path, int flags) {
  const int descriptor = open(path.c_str(), flags | O_CLOEXEC);
  if (descriptor < 0) fail_on("open it to sync it", path, errno, 0);
  const int result = fsync(descriptor);
  const int error = errno;
  close(descriptor);
  // Some file systems cannot sync a folder, and say so with EINVAL.
  if (result != 0 && error != EINVAL) fail_on("sync it to the disk", path, error, 0);
}

void sync_folder(const fs::path& path) {
  sync_path(path, O_RDONLY | O_DIRECTORY);
}

void sync_tree(const fs::path& root) {
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(root)) {
    if (entry.is_directory()) sync_folder(entry.path());
    if (entry.is_regular_file() && !entry.is_symlink()) sync_path(entry.path(), O_RDONLY);
  }
  sync_folder(root);
}

// Where another call fills it now, its lock says so; a killed one's is gone with it.
void remove_abandoned(const fs::path& folder, const std::string& prefix) {
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(prefix) || !is_temporary(name) || !entry.is_directory(ignored)) continue;
    const int descriptor = open(entry.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) continue;
    if (flock(descriptor, LOCK_EX | LOCK_NB) == 0) fs::remove_all(entry.path(), ignored);
    close(descriptor);
  }
}

void rename_path(const fs::path& from, const fs::path& to) {
  if (rename(from.c_str(), to.c_str()) != 0) fail_on("put it in its place", to, errno, 0);
}

// "a/b/" and "a/b" are the same place; the temporary folder must stand beside it, not in it.
fs::path without_slash(const fs::path& path) {
  return path.has_filename() ? path : path.parent_path();
}

// Where links lead in the end, even if nothing is there yet.
fs::path without_links(fs::path path) {
  constexpr int kMostLinks = 40;  // as the kernel's own limit
  std::error_code error;
  for (int i = 0; i < kMostLinks && fs::is_symlink(path, error); ++i) {
    const fs::path target = fs::read_symlink(path, error);
    if (error) break;
    path = without_slash(folder_of(path) / target);
  }
  return path;
}

}  // namespace

AtomicFile::AtomicFile(fs::path path) : path_(without_links(std::move(path))) {
  make_parents(path_);
  temporary_ = folder_of(path_) / fmt::format("tmp-{}.{}", path_.filename().string(), nonce());
  descriptor_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail("create it", errno);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  close(descriptor_);
  unlink(temporary_.c_str());
}

void AtomicFile::fail(const std::string& action, int error) const {
  fail_on(action, path_, error, size_);
}

void AtomicFile::write(std::string_view bytes) {
  write_at(size_, bytes);
  size_ += bytes.size();
}

void AtomicFile::write_at(std::uint64_t offset, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = pwrite(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) fail_on("write it", path_, written == 0 ? EIO : errno, offset + bytes.size());
    bytes.remove_prefix(static_cast<std::size_t>(written));
    offset += static_cast<std::uint64_t>(written);
  }
}

void AtomicFile::commit() {
  if (fsync(descriptor_) != 0) fail("sync it to the disk", errno);
  if (rename(temporary_.c_str(), path_.c_str()) != 0) fail("put it in its place", errno);
  close(descriptor_);
  descriptor_ = -1;
  sync_folder(folder_of(path_));
}

void write_file_atomically(const fs::path& path, std::string_view bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

AtomicFolder::AtomicFolder(const fs::path& path) : path_(without_links(without_slash(path))) {
  make_parents(path_);
  const std::string prefix = fmt::format("tmp-{}.", path_.filename().string());
  remove_abandoned(folder_of(path_), prefix);
  temporary_ = folder_of(path_) / (prefix + nonce());
  std::error_code error;
  if (!fs::create_directory(temporary_, error)) fail_on("make its folder", path_, error.value(), 0);
  lock_ = open(temporary_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (lock_ >= 0) flock(lock_, LOCK_EX | LOCK_NB);
}

AtomicFolder::~AtomicFolder() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(temporary_, ignored);
  if (lock_ >= 0) close(lock_);
}

void AtomicFolder::commit() {
  sync_tree(temporary_);
  const bool replaces = fs::exists(fs::symlink_status(path_));
  fs::path old = temporary_;
  // In one step, where the file system can: a kill leaves the old folder or the new one in its place.
  const bool exchanged =
      replaces && renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, path_.c_str(), RENAME_EXCHANGE) == 0;
  if (!exchanged) {
    old = folder_of(path_) / fmt::format("tmp-old-{}", nonce());
    if (replaces) rename_path(path_, old);
    try {
      rename_path(temporary_, path_);
    } catch (const Error&) {
      if (replaces) rename_path(old, path_);
      throw;
    }
  }
  committed_ = true;
  sync_folder(folder_of(path_));
  std::error_code error;
  if (replaces) fs::remove_all(old, error);
  if (error) log_warning("{}: cannot be removed: {}", old.string(), error.message());
}

void AtomicFolder::move_out(const std::string& last) {
  sync_tree(temporary_);
  const fs::path folder = folder_of(path_);
  const std::vector<fs::directory_entry> entries(fs::directory_iterator(temporary_), fs::directory_iterator{});
  for (const fs::directory_entry& entry : entries) {
    const fs::path name = entry.path().filename();
    if (name == last) continue;
    if (entry.is_directory()) fs::remove_all(folder / name);  // rename() takes the place of an empty folder alone
    rename_path(entry.path(), folder / name);
  }
  rename_path(temporary_ / last, folder / last);
  sync_folder(folder);
}

void require_folder(const fs::path& path) {
  if (path.empty()) return;
  fs::path existing = fs::absolute(path);
  while (!fs::exists(existing) && existing != existing.parent_path()) existing = existing.parent_path();
  if (!fs::is_directory(existing)) {
    throw UsageError(fmt::format("output_dir: {} is a file, no folder", existing.string()));
  }
  if (access(existing.c_str(), W_OK | X_OK) != 0) {
    throw RuntimeFailure(
        fmt::format("output_dir: {} cannot be written to: {}; name another", existing.string(), std::strerror(errno)));
  }
}

FolderLock::FolderLock(const fs::path& folder) : descriptor_(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
  if (descriptor_ < 0 || flock(descriptor_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return;
  close(descriptor_);
  throw UsageError(
      fmt::format("output_dir: another run writes into {}; wait for it, or name another folder", folder.string()));
}

FolderLock::~FolderLock() {
  if (descriptor_ >= 0) close(descriptor_);
}

void remove_leftovers(const fs::path& folder) {
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, ignored)) {
    if (is_temporary(entry.path().filename().string())) fs::remove_all(entry.path(), ignored);
  }
}

}  // namespace qlora
