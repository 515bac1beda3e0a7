#include "qlora/text/tokenizer/unicode.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <span>

#include <utf8proc.h>

#include "qlora/text/tokenizer/regex.h"

namespace qlora {
namespace {

constexpr char32_t kReplacement = 0xFFFD;
constexpr char32_t kClassifiedEnd = 0x40000;  // no letter, number or space above

unsigned char byte_at(std::string_view text, std::size_t position) {
  return static_cast<unsigned char>(text[position]);
}

// What a well-formed sequence that starts with `lead` looks like: its length and the range of its second byte.
struct Lead {
  int length;
  unsigned char low, high;
};

Lead lead_of(unsigned char lead) {
  if (lead < 0x80) return {1, 0, 0};
  if (lead < 0xC2) return {0, 0, 0};
  if (lead < 0xE0) return {2, 0x80, 0xBF};
  if (lead < 0xF0) {
    return {3, static_cast<unsigned char>(lead == 0xE0 ? 0xA0 : 0x80),
            static_cast<unsigned char>(lead == 0xED ? 0x9F : 0xBF)};
  }
  if (lead < 0xF5) {
    return {4, static_cast<unsigned char>(lead == 0xF0 ? 0x90 : 0x80),
            static_cast<unsigned char>(lead == 0xF4 ? 0x8F : 0xBF)};
  }
  return {0, 0, 0};
}

// Well-formed bytes at `position`, and whether they are a whole character.
struct Prefix {
  std::size_t length;
  bool complete;
};

Prefix well_formed_prefix(std::string_view text, std::size_t position) {
  const Lead lead = lead_of(byte_at(text, position));
  if (lead.length == 0) return {0, false};
  std::size_t length = 1;
  while (length < static_cast<std::size_t>(lead.length)) {
    if (position + length >= text.size()) return {length, false};
    const unsigned char next = byte_at(text, position + length);
    const bool fits = length == 1 ? next >= lead.low && next <= lead.high : (next & 0xC0) == 0x80;
    if (!fits) return {length, false};
    ++length;
  }
  return {length, true};
}

void mark_class(std::vector<std::uint8_t>& classes, std::string_view pattern, std::uint8_t bit) {
  constexpr char32_t kBlock = 0x4000;
  const Regex regex(pattern);
  for (char32_t first = 0; first < kClassifiedEnd; first += kBlock) {
    std::string text;
    for (char32_t value = first; value < first + kBlock; ++value) {
      if (value < 0xD800 || value >= 0xE000) append_utf8(text, value);
    }
    regex.for_each_match(text, [&](ByteSpan match) {
      for (std::size_t at = match.begin; at < match.end;) {
        const CodePoint point = code_point_at(text, at);
        classes[point.value] |= bit;
        at += point.length;
      }
    });
  }
}

bool in_ranges(std::span<const CodePointRange> ranges, char32_t value) {
  return std::any_of(ranges.begin(), ranges.end(),
                     [&](const CodePointRange& range) { return value >= range.first && value <= range.last; });
}

}  // namespace

CodePoint code_point_at(std::string_view text, std::size_t position) {
  const unsigned char lead = byte_at(text, position);
  const auto tail = [&](std::size_t i) { return static_cast<char32_t>(byte_at(text, position + i) & 0x3F); };
  if (lead < 0x80) return {lead, 1};
  if (lead < 0xE0) return {(static_cast<char32_t>(lead & 0x1F) << 6) | tail(1), 2};
  if (lead < 0xF0) return {(static_cast<char32_t>(lead & 0x0F) << 12) | (tail(1) << 6) | tail(2), 3};
  return {(static_cast<char32_t>(lead & 0x07) << 18) | (tail(1) << 12) | (tail(2) << 6) | tail(3), 4};
}

void append_utf8(std::string& out, char32_t value) {
  const auto put = [&](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (value < 0x80) {
    put(value);
  } else if (value < 0x800) {
    put(0xC0 | (value >> 6)), put(0x80 | (value & 0x3F));
  } else if (value < 0x10000) {
    put(0xE0 | (value >> 12)), put(0x80 | ((value >> 6) & 0x3F)), put(0x80 | (value & 0x3F));
  } else {
    put(0xF0 | (value >> 18)), put(0x80 | ((value >> 12) & 0x3F)), put(0x80 | ((value >> 6) & 0x3F));
    put(0x80 | (value & 0x3F));
  }
}

std::size_t find_invalid_utf8(std::string_view text, std::size_t from) {
  std::size_t at = from;
  while (at < text.size()) {
    std::uint64_t word;
    if (at + sizeof(word) <= text.size()) {
      std::memcpy(&word, text.data() + at, sizeof(word));
      if ((word & 0x8080808080808080ULL) == 0) {
        at += sizeof(word);
        continue;
      }
    }
    if (byte_at(text, at) < 0x80) {
      ++at;
      continue;
    }
    const Prefix prefix = well_formed_prefix(text, at);
    if (!prefix.complete) return at;
    at += prefix.length;
  }
  return text.size();
}

std::size_t invalid_utf8_length(std::string_view text, std::size_t position) {
  return std::max<std::size_t>(1, well_formed_prefix(text, position).length);
}

std::string replace_invalid_utf8(std::string_view text) {
  std::string out;
  std::size_t at = 0;
  while (true) {
    const std::size_t bad = find_invalid_utf8(text, at);
    out.append(text.substr(at, bad - at));
    if (bad == text.size()) return out;
    append_utf8(out, kReplacement);
    at = bad + invalid_utf8_length(text, bad);
  }
}

const std::vector<std::uint8_t>& character_classes() {
  static const std::vector<std::uint8_t> classes = [] {
    std::vector<std::uint8_t> made(kClassifiedEnd, 0);
    mark_class(made, "\\p{L}+", kLetter);
    mark_class(made, "\\p{N}+", kNumber);
    mark_class(made, "\\s+", kWhiteSpace);
    return made;
  }();
  return classes;
}

bool is_white_space(char32_t value) {
  if (value < 0x80) return value == ' ' || (value >= 0x09 && value <= 0x0D);
  return value == 0x85 || value == 0xA0 || value == 0x1680 || (value >= 0x2000 && value <= 0x200A) || value == 0x2028 ||
         value == 0x2029 || value == 0x202F || value == 0x205F || value == 0x3000;
}

bool is_numeric(char32_t value) {
  static constexpr std::array<CodePointRange, 2> kUnicode17 = {{{0x11DE0, 0x11DE9}, {0x16FF4, 0x16FF6}}};
  if (value < 0x80) return value >= '0' && value <= '9';
  return (value < kClassifiedEnd && (character_classes()[value] & kNumber) != 0) || in_ranges(kUnicode17, value);
}

bool is_split_punctuation(char32_t value) {
  // Punctuation that came after Unicode 8, or was punctuation only then.
  static constexpr CodePointRange kLater[] = {
      {0x61D, 0x61D},     {0x9FD, 0x9FD},     {0xA76, 0xA76},     {0xC77, 0xC77},     {0xC84, 0xC84},
      {0x1B7D, 0x1B7E},   {0x2E43, 0x2E4F},   {0x2E52, 0x2E5D},   {0x10EAD, 0x10EAD}, {0x10F55, 0x10F59},
      {0x10F86, 0x10F89}, {0x1144B, 0x1144F}, {0x1145A, 0x1145B}, {0x1145D, 0x1145D}, {0x11660, 0x1166C},
      {0x116B9, 0x116B9}, {0x1183B, 0x1183B}, {0x11944, 0x11946}, {0x119E2, 0x119E2}, {0x11A3F, 0x11A46},
      {0x11A9A, 0x11A9C}, {0x11A9E, 0x11AA2}, {0x11C41, 0x11C45}, {0x11C70, 0x11C71}, {0x11EF7, 0x11EF8},
      {0x11FFF, 0x11FFF}, {0x12FF1, 0x12FF2}, {0x16E97, 0x16E9A}, {0x16FE2, 0x16FE2}, {0x1E95E, 0x1E95F}};
  if (value < 0x80) return value > ' ' && value < 0x7F && !std::isalnum(static_cast<int>(value));
  if (value == 0x166D || value == 0x111C9) return true;
  const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(value));
  return category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO && !in_ranges(kLater, value) &&
         !in_ranges(recent_code_points("P"), value);
}

}  // namespace qlora
