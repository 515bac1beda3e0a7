// TensorBoard event files: records of protobuf messages, each guarded by masked CRC-32C.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace qlora {

// CRC-32C (Castagnoli, reflected polynomial 0x82f63b78).
std::uint32_t crc32c(std::string_view bytes);

// One `events.out.tfevents.<time>.<host>.<pid>.<n>` in a folder, appended event by event.
class TensorBoardFile {
 public:
  using Scalars = std::vector<std::pair<std::string, double>>;  // tag, value

  // Makes the folder and a new file in it. Throws RuntimeFailure naming the path.
  explicit TensorBoardFile(const std::filesystem::path& folder);

  // One event. `wall_time`: seconds since 1970. Throws RuntimeFailure where it cannot be written.
  void write(std::int64_t step, const Scalars& scalars, double wall_time);

  const std::filesystem::path& path() const { return path_; }

 private:
  void append(const std::string& event);

  std::filesystem::path path_;
  std::ofstream file_;
};

// Seconds since 1970.
double wall_clock();

}  // namespace qlora
