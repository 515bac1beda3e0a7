// Event { double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5 }
// Summary { repeated Value value = 1 }   Value { string tag = 1; float simple_value = 2 }
#include "qlora/formats/tensorboard.h"

#include <unistd.h>

#include <array>
#include <atomic>
#include <bit>
#include <chrono>

#include <spdlog/fmt/fmt.h>

#include "qlora/core/error.h"

namespace qlora {
namespace {

// Protobuf's wire types.
constexpr std::uint64_t kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5;

template <class T>
std::string little_endian(T value) {
  std::string bytes;
  for (std::size_t i = 0; i < sizeof(T); ++i) bytes += static_cast<char>(value >> (8 * i));
  return bytes;
}

std::string varint(std::uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
  return bytes + static_cast<char>(value);
}

std::string key(std::uint64_t field, std::uint64_t wire_type) {
  return varint(field << 3 | wire_type);
}

std::string text_field(std::uint64_t field, const std::string& bytes) {
  return key(field, kBytes) + varint(bytes.size()) + bytes;
}

std::string event_at(double wall_time, std::int64_t step) {
  return key(1, kFixed64) + little_endian(std::bit_cast<std::uint64_t>(wall_time)) + key(2, kVarint) +
         varint(static_cast<std::uint64_t>(step));
}

std::uint32_t masked(std::uint32_t crc) {
  return std::rotr(crc, 15) + 0xa282ead8U;
}

std::array<std::uint32_t, 256> crc_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t byte = 0; byte < table.size(); ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78U : 0U);
    table[byte] = crc;
  }
  return table;
}

std::string host_name() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "localhost";
}

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
  static const std::array<std::uint32_t, 256> table = crc_table();
  std::uint32_t crc = ~0U;
  for (const char c : bytes) crc = (crc >> 8) ^ table[(crc ^ static_cast<unsigned char>(c)) & 0xff];
  return ~crc;
}

double wall_clock() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

TensorBoardFile::TensorBoardFile(const std::filesystem::path& folder) {
  static std::atomic<int> number{0};
  const double now = wall_clock();
  path_ = folder / fmt::format("events.out.tfevents.{:010d}.{}.{}.{}", static_cast<std::int64_t>(now), host_name(),
                               getpid(), number++);
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  file_.open(path_, std::ios::binary);
  append(event_at(now, 0) + text_field(3, "brain.Event:2"));
}

void TensorBoardFile::write(std::int64_t step, const Scalars& scalars, double wall_time) {
  std::string summary;
  for (const auto& [tag, value] : scalars) {
    const auto bits = std::bit_cast<std::uint32_t>(static_cast<float>(value));
    summary += text_field(1, text_field(1, tag) + key(2, kFixed32) + little_endian(bits));
  }
  append(event_at(wall_time, step) + text_field(5, summary));
}

void TensorBoardFile::append(const std::string& event) {
  const std::string length = little_endian(static_cast<std::uint64_t>(event.size()));
  file_ << length << little_endian(masked(crc32c(length))) << event << little_endian(masked(crc32c(event)))
        << std::flush;
  if (!file_) throw RuntimeFailure(fmt::format("{}: cannot be written: is the disk full?", path_.string()));
}

}  // namespace qlora
