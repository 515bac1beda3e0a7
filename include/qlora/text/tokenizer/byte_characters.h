// The printable characters that byte-level vocabularies write bytes with (GPT-2's bytes_to_unicode).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace qlora {

// The character of each byte, as UTF-8: '!'..'~', 0xA1..0xAC and 0xAE..0xFF stand for themselves, the others are U+0100
// and following in order.
const std::array<std::string, 256>& byte_characters();

// The bytes that a token stands for; none where one of its characters is no byte's.
std::optional<std::string> bytes_of_characters(std::string_view token);

}  // namespace qlora
