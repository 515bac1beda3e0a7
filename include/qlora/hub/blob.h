// A file of the cache while it is downloaded: ETAG.incomplete, locked against other processes, gone on with after an
// interruption, and checked before it gets its name.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "qlora/core/hash.h"

namespace qlora {

// An exclusive flock() on a file, which huggingface_hub's locks respect and which ends with the process. Waits; throws
// Error where a signal comes. A file system without locks gives none: the file is then only checked.
class FileLock {
 public:
  // `what` is waited for, for the message.
  FileLock(const std::filesystem::path& path, const std::string& what);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  int descriptor_;
};

class BlobWriter {
 public:
  // Opens `path`.incomplete, and takes over the bytes that an earlier run left there. Throws RuntimeFailure where the
  // system refuses something, here and below.
  explicit BlobWriter(std::filesystem::path path);
  ~BlobWriter();
  BlobWriter(const BlobWriter&) = delete;
  BlobWriter& operator=(const BlobWriter&) = delete;

  std::uint64_t size() const { return size_; }
  void append(std::string_view bytes);
  // Drops all bytes.
  void restart();
  // Whether the bytes have this many and, where `etag` is a SHA-256, this hash. May be called once after the last byte.
  bool matches(std::optional<std::uint64_t> size, const std::string& etag);
  // Syncs the bytes and gives the file its name.
  void commit();
  // Removes the file.
  void discard();

 private:
  [[noreturn]] void fail(const std::string& action, int error) const;

  std::filesystem::path path_, incomplete_;
  int descriptor_ = -1;
  std::uint64_t size_ = 0;
  Sha256 hash_;
};

}  // namespace qlora
