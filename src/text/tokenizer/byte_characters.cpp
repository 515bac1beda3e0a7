#include "qlora/text/tokenizer/byte_characters.h"

#include "qlora/text/tokenizer/unicode.h"

namespace qlora {
namespace {

bool stands_for_itself(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

const std::array<std::int16_t, 512>& bytes_by_character() {
  static const std::array<std::int16_t, 512> table = [] {
    std::array<std::int16_t, 512> made;
    made.fill(-1);
    for (int byte = 0; byte < 256; ++byte) {
      const std::string& character = byte_characters()[static_cast<std::size_t>(byte)];
      made[code_point_at(character, 0).value] = static_cast<std::int16_t>(byte);
    }
    return made;
  }();
  return table;
}

}  // namespace

const std::array<std::string, 256>& byte_characters() {
  static const std::array<std::string, 256> table = [] {
    std::array<std::string, 256> made;
    char32_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      append_utf8(made[static_cast<std::size_t>(byte)], stands_for_itself(byte) ? static_cast<char32_t>(byte) : next++);
    }
    return made;
  }();
  return table;
}

std::optional<std::string> bytes_of_characters(std::string_view token) {
  std::string out;
  for (std::size_t at = 0; at < token.size();) {
    const CodePoint point = code_point_at(token, at);
    const int byte = point.value < 512 ? bytes_by_character()[point.value] : -1;
    if (byte < 0) return std::nullopt;
    out.push_back(static_cast<char>(byte));
    at += point.length;
  }
  return out;
}

}  // namespace qlora
