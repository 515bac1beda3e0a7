// Whole files as bytes: mapped into memory to be read without a copy, and written.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string_view>

namespace qlora {

// Owns one private read-only mapping. Movable, not copyable; views into it live as long as it does.
class MappedFile {
 public:
  MappedFile() = default;
  // Throws DataError naming the path where it is no readable regular file. An empty file maps to no bytes.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  const std::byte* data() const { return static_cast<const std::byte*>(data_); }
  std::size_t size() const { return size_; }
  std::string_view text() const { return {static_cast<const char*>(data_), size_}; }

 private:
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

// What follows a UTF-8 byte order mark at the beginning; all of a text without one.
std::string_view without_byte_order_mark(std::string_view text);

// Writes a file, not synced to the disk: for what a folder that appears as a whole (core/atomic_file.h) is filled with.
// Throws RuntimeFailure naming the path, the bytes and the cause.
void write_file(const std::filesystem::path& path, std::string_view bytes);

}  // namespace qlora
