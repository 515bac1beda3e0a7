// UTF-8 and the character classes that tokenizers are defined by. Torch-free, no locale.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace qlora {

struct CodePoint {
  char32_t value = 0;
  std::uint32_t length = 0;  // bytes
};

// The character that starts at `position` of valid UTF-8 (position < text.size()).
CodePoint code_point_at(std::string_view text, std::size_t position);

void append_utf8(std::string& out, char32_t value);

// First byte of the first ill-formed sequence, text.size() where there is none.
std::size_t find_invalid_utf8(std::string_view text, std::size_t from = 0);

// Bytes of the ill-formed sequence at `position` that one U+FFFD stands for: the maximal subpart of Unicode 3.9, which
// is what Python's errors="replace" and Rust's from_utf8_lossy take.
std::size_t invalid_utf8_length(std::string_view text, std::size_t position);

// `text` with every ill-formed sequence replaced by U+FFFD.
std::string replace_invalid_utf8(std::string_view text);

// Unicode 16, as the reference's regular expressions have it.
enum CharacterClass : std::uint8_t { kLetter = 1, kNumber = 2, kWhiteSpace = 4 };

// Bits of CharacterClass for every code point below 0x40000 (none above has any).
const std::vector<std::uint8_t>& character_classes();

bool is_white_space(char32_t value);        // property White_Space
bool is_numeric(char32_t value);            // categories Nd, Nl, No (Unicode 17)
bool is_split_punctuation(char32_t value);  // ASCII punctuation and the categories P* (Unicode 8)

// Ranges of code points of a general category ("Lu", or a whole group as "L") that Unicode 15 to 16 assigned and PCRE2
// 10.42 (Unicode 14) does not know.
struct CodePointRange {
  char32_t first;
  char32_t last;
};
std::vector<CodePointRange> recent_code_points(std::string_view category);

}  // namespace qlora
