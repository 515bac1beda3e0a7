#include "qlora/hub/blob.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/core/signal.h"
#include "qlora/hub/layout.h"

namespace qlora {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail_on(const fs::path& path, const std::string& action, int error) {
  const char* hint =
      error == ENOSPC || error == EDQUOT  ? "; free some space, or name another folder for the cache: HF_HOME"
      : error == EACCES || error == EROFS ? "; name a folder for the cache that can be written to: HF_HOME"
                                          : "";
  throw RuntimeFailure(fmt::format("{}: cannot {}: {}{}", path.string(), action, std::strerror(error), hint));
}

void make_folder_of(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path.parent_path(), error);
  if (error) fail_on(path.parent_path(), "make the folder", error.value());
}

}  // namespace

FileLock::FileLock(const fs::path& path, const std::string& what) {
  make_folder_of(path);
  descriptor_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0664);
  if (descriptor_ < 0) fail_on(path, "open the lock", errno);
  for (bool told = false; flock(descriptor_, LOCK_EX | LOCK_NB) != 0;) {
    if (errno != EWOULDBLOCK && errno != EINTR) return;  // no locks here
    if (!std::exchange(told, true)) log_info("{}: waiting for another process that downloads it", what);
    try {
      throw_if_stopped();
    } catch (...) {
      close(descriptor_);
      throw;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

FileLock::~FileLock() {
  close(descriptor_);
}

BlobWriter::BlobWriter(fs::path path) : path_(std::move(path)), incomplete_(path_.string() + ".incomplete") {
  make_folder_of(path_);
  descriptor_ = open(incomplete_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (descriptor_ < 0) fail("create it", errno);
  std::vector<char> buffer(1 << 20);
  for (;;) {
    const ssize_t count = read(descriptor_, buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      const int error = errno;
      close(descriptor_);
      fail("read what is there", error);
    }
    if (count == 0) break;
    hash_.update({buffer.data(), static_cast<std::size_t>(count)});
    size_ += static_cast<std::uint64_t>(count);
  }
}

BlobWriter::~BlobWriter() {
  if (descriptor_ >= 0) close(descriptor_);
}

void BlobWriter::fail(const std::string& action, int error) const {
  fail_on(incomplete_, action, error);
}

void BlobWriter::append(std::string_view bytes) {
  hash_.update(bytes);
  while (!bytes.empty()) {
    const ssize_t written = pwrite(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(size_));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) fail("write it", written == 0 ? EIO : errno);
    bytes.remove_prefix(static_cast<std::size_t>(written));
    size_ += static_cast<std::uint64_t>(written);
  }
}

void BlobWriter::restart() {
  if (ftruncate(descriptor_, 0) != 0) fail("empty it", errno);
  size_ = 0;
  hash_ = Sha256();
}

bool BlobWriter::matches(std::optional<std::uint64_t> size, const std::string& etag) {
  return (!size || *size == size_) && (!is_sha256(etag) || hash_.hex() == etag);
}

void BlobWriter::commit() {
  if (fsync(descriptor_) != 0) fail("sync it to the disk", errno);
  if (rename(incomplete_.c_str(), path_.c_str()) != 0) fail("put it in its place", errno);
}

void BlobWriter::discard() {
  unlink(incomplete_.c_str());
}

}  // namespace qlora
