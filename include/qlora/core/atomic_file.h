// Files and folders that appear whole or not at all: written beside their place, synced, then renamed into it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace qlora {

// Replaces `path` by a file of `bytes`: temporary file, fsync, rename, fsync of the folder, which is made where it is
// missing. A symbolic link stays, and what it points to is replaced. Where a step fails the old file stays as it was
// and RuntimeFailure names the path, the bytes and the cause.
void write_file_atomically(const std::filesystem::path& path, std::string_view bytes);

// Writes a file in pieces with the same promise. Without commit() the destructor removes what was written.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::string_view bytes);
  // Writes at `offset` from the file's start and leaves the position of write() as it was.
  void write_at(std::uint64_t offset, std::string_view bytes);
  std::uint64_t size() const { return size_; }
  void commit();

 private:
  [[noreturn]] void fail(const std::string& action, int error) const;

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;
  std::uint64_t size_ = 0;
};

// A folder that is filled as `tmp-<name>.<nonce>` beside its place, where what a killed call left goes first. commit()
// syncs every file and folder in it and exchanges it with what stood at `path` before, which is then removed. Whoever
// calls it knows that what stands there may go. A symbolic link stays, and the folder that it points to is replaced.
class AtomicFolder {
 public:
  explicit AtomicFolder(const std::filesystem::path& path);
  // Without commit() what was written is removed.
  ~AtomicFolder();
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;

  // Write into this one.
  const std::filesystem::path& temporary() const { return temporary_; }
  void commit();
  // Instead of commit(), where the folder around `path` holds more than is ours: syncs what was written and moves it
  // there entry by entry, in the place of what has the same name, `last` after all others, so that whoever finds `last`
  // finds the rest.
  void move_out(const std::string& last);

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int lock_ = -1;  // held as long as it is filled
  bool committed_ = false;
};

// Throws UsageError where an output folder is, or would lie in, a file, and RuntimeFailure where this user may not
// write into it, or make it. No path, no demand.
void require_folder(const std::filesystem::path& path);

// Held by a run that writes into a folder for long: two of them would mix their files. Where the file system knows no
// locks there is none.
class FolderLock {
 public:
  // Throws UsageError where another process holds it.
  explicit FolderLock(const std::filesystem::path& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int descriptor_ = -1;
};

// Removes the temporary files and folders that killed runs of this program left in `folder`; what cannot be removed
// stays.
void remove_leftovers(const std::filesystem::path& folder);

}  // namespace qlora
