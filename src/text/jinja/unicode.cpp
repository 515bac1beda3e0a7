// Character classes and case maps of Python's str, over utf8proc.
#include "qlora/text/jinja/unicode.h"

#include <algorithm>
#include <iterator>

#include <utf8proc.h>

#include "qlora/text/jinja/unicode_tables.h"

namespace qlora::jinja::unicode {
namespace {

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

utf8proc_category_t category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

template <std::size_t N>
bool within(const Range (&ranges)[N], char32_t c) {
  const Range* at = std::upper_bound(std::begin(ranges), std::end(ranges), c,
                                     [](char32_t value, const Range& range) { return value < range.first; });
  return at != std::begin(ranges) && c <= (at - 1)->last;
}

template <std::size_t N>
const char* special_case(const SpecialCase (&table)[N], char32_t c) {
  const SpecialCase* at =
      std::lower_bound(std::begin(table), std::end(table), c,
                       [](const SpecialCase& entry, char32_t value) { return entry.character < value; });
  return at != std::end(table) && at->character == c ? at->mapped : nullptr;
}

void append_upper(std::string& out, char32_t c) {
  if (const char* mapped = special_case(kUpper, c)) {
    out += mapped;
  } else {
    append(out, static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))));
  }
}

void append_title(std::string& out, char32_t c) {
  if (const char* mapped = special_case(kTitle, c)) {
    out += mapped;
  } else {
    append(out, static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c))));
  }
}

bool is_cased(char32_t c) {
  return is_lower(c) || is_upper(c) || is_title(c);
}

bool is_case_ignorable(char32_t c) {
  switch (category(c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
      return true;
    default:
      return std::u32string_view(
                 U"'.:\u00b7\u0387\u055f\u05f4\u2018\u2019\u2024\u2027\ufe13\ufe52\ufe55\uff07\uff0e\uff1a")
                 .find(c) != std::u32string_view::npos;
  }
}

// A capital sigma that ends a word becomes the final small sigma.
bool ends_word(std::u32string_view text, std::size_t at) {
  std::size_t before = at;
  while (before > 0 && is_case_ignorable(text[before - 1])) --before;
  if (before == 0 || !is_cased(text[before - 1])) return false;
  std::size_t after = at + 1;
  while (after < text.size() && is_case_ignorable(text[after])) ++after;
  return after == text.size() || !is_cased(text[after]);
}

void append_lower(std::string& out, std::u32string_view text, std::size_t at) {
  constexpr char32_t kCapitalSigma = 0x3a3, kSigma = 0x3c3, kFinalSigma = 0x3c2, kDottedI = 0x130;
  const char32_t c = text[at];
  if (c == kCapitalSigma) {
    append(out, ends_word(text, at) ? kFinalSigma : kSigma);
  } else if (c == kDottedI) {
    out += "i\u0307";
  } else {
    append(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
  }
}

}  // namespace

std::size_t sequence_length(std::string_view text, std::size_t at) {
  const auto lead = static_cast<unsigned char>(text[at]);
  const std::size_t length = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  return std::min(length, text.size() - at);
}

std::size_t length(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

std::size_t offset(std::string_view text, std::size_t index) {
  std::size_t at = 0;
  for (; index > 0 && at < text.size(); --index) at += sequence_length(text, at);
  return at;
}

char32_t decode(std::string_view text, std::size_t at) {
  utf8proc_int32_t c = 0;
  utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data() + at),
                   static_cast<utf8proc_ssize_t>(text.size() - at), &c);
  return c < 0 ? 0xfffd : static_cast<char32_t>(c);
}

void append(std::string& out, char32_t character) {
  utf8proc_uint8_t bytes[4];
  const auto count = utf8proc_encode_char(static_cast<utf8proc_int32_t>(character), bytes);
  out.append(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(count));
}

std::u32string to_characters(std::string_view text) {
  std::u32string characters;
  characters.reserve(text.size());
  for (std::size_t at = 0; at < text.size(); at += sequence_length(text, at)) characters += decode(text, at);
  return characters;
}

std::string to_utf8(std::u32string_view characters) {
  std::string text;
  for (const char32_t c : characters) append(text, c);
  return text;
}

std::size_t find_invalid(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    utf8proc_int32_t c = 0;
    const auto count = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data() + at),
                                        static_cast<utf8proc_ssize_t>(text.size() - at), &c);
    if (count < 1) return at;
    at += static_cast<std::size_t>(count);
  }
  return std::string_view::npos;
}

bool is_space(char32_t c) {
  if (c < 0x80) return (c >= 9 && c <= 13) || (c >= 28 && c <= 32);
  return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
         c == 0x202f || c == 0x205f || c == 0x3000;
}

bool is_letter(char32_t c) {
  const auto kind = category(c);
  return kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_LO;
}

bool is_decimal(char32_t c) {
  return category(c) == UTF8PROC_CATEGORY_ND;
}

bool is_digit(char32_t c) {
  return is_decimal(c) || within(kOtherDigit, c);
}

bool is_numeric(char32_t c) {
  const auto kind = category(c);
  return (kind >= UTF8PROC_CATEGORY_ND && kind <= UTF8PROC_CATEGORY_NO) || within(kNumericLetter, c);
}

bool is_alphanumeric(char32_t c) {
  return is_letter(c) || is_numeric(c);
}

bool is_word(char32_t c) {
  return c == '_' || is_alphanumeric(c);
}

bool is_lower(char32_t c) {
  return category(c) == UTF8PROC_CATEGORY_LL || within(kOtherLower, c);
}

bool is_upper(char32_t c) {
  return category(c) == UTF8PROC_CATEGORY_LU || within(kOtherUpper, c);
}

bool is_title(char32_t c) {
  return category(c) == UTF8PROC_CATEGORY_LT;
}

bool is_printable(char32_t c) {
  if (c == ' ') return true;
  const auto kind = category(c);
  return kind != UTF8PROC_CATEGORY_CN && kind < UTF8PROC_CATEGORY_ZS;
}

bool is_line_break(char32_t c) {
  return (c >= 10 && c <= 13) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

bool is_identifier(std::string_view text) {
  for (std::size_t at = 0; at < text.size(); at += sequence_length(text, at)) {
    const char32_t c = decode(text, at);
    const bool letter = c == '_' || is_letter(c) || category(c) == UTF8PROC_CATEGORY_NL;
    const auto kind = category(c);
    const bool continues = letter || kind == UTF8PROC_CATEGORY_ND || kind == UTF8PROC_CATEGORY_MN ||
                           kind == UTF8PROC_CATEGORY_MC || kind == UTF8PROC_CATEGORY_PC;
    if (!(at == 0 ? letter : continues)) return false;
  }
  return !text.empty();
}

std::string upper(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    if (const char c = text[at]; static_cast<unsigned char>(c) < 0x80) {
      out += c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c;
      ++at;
    } else {
      append_upper(out, decode(text, at));
      at += sequence_length(text, at);
    }
  }
  return out;
}

std::string lower(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  if (is_ascii(text)) {
    for (const char c : text) out += c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
    return out;
  }
  const std::u32string characters = to_characters(text);
  for (std::size_t at = 0; at < characters.size(); ++at) append_lower(out, characters, at);
  return out;
}

std::string title(std::string_view text) {
  const std::u32string characters = to_characters(text);
  std::string out;
  bool after_cased = false;
  for (std::size_t at = 0; at < characters.size(); ++at) {
    after_cased ? append_lower(out, characters, at) : append_title(out, characters[at]);
    after_cased = is_cased(characters[at]);
  }
  return out;
}

std::string capitalize(std::string_view text) {
  const std::u32string characters = to_characters(text);
  std::string out;
  for (std::size_t at = 0; at < characters.size(); ++at) {
    at == 0 ? append_title(out, characters[at]) : append_lower(out, characters, at);
  }
  return out;
}

std::string swapcase(std::string_view text) {
  const std::u32string characters = to_characters(text);
  std::string out;
  for (std::size_t at = 0; at < characters.size(); ++at) {
    const char32_t c = characters[at];
    if (is_upper(c)) {
      append_lower(out, characters, at);
    } else if (is_lower(c)) {
      append_upper(out, c);
    } else {
      append(out, c);
    }
  }
  return out;
}

std::string casefold(std::string_view text) {
  std::string out;
  for (const char32_t c : to_characters(text)) {
    utf8proc_int32_t folded[8];
    int boundary = 0;
    const auto count =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), folded, 8, UTF8PROC_CASEFOLD, &boundary);
    for (utf8proc_ssize_t i = 0; i < count; ++i) append(out, static_cast<char32_t>(folded[i]));
  }
  return out;
}

namespace {

bool strips(char32_t c, const std::string_view* characters) {
  if (!characters) return is_space(c);
  for (std::size_t at = 0; at < characters->size(); at += sequence_length(*characters, at)) {
    if (decode(*characters, at) == c) return true;
  }
  return false;
}

}  // namespace

std::string_view strip_left(std::string_view text, const std::string_view* characters) {
  while (!text.empty() && strips(decode(text, 0), characters)) text.remove_prefix(sequence_length(text, 0));
  return text;
}

std::string_view strip_right(std::string_view text, const std::string_view* characters) {
  while (!text.empty()) {
    std::size_t start = text.size() - 1;
    while (start > 0 && (text[start] & 0xc0) == 0x80) --start;
    if (!strips(decode(text, start), characters)) break;
    text = text.substr(0, start);
  }
  return text;
}

std::string_view strip(std::string_view text, const std::string_view* characters) {
  return strip_right(strip_left(text, characters), characters);
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  std::size_t start = 0;
  for (std::size_t at = 0; at < text.size();) {
    const char32_t c = decode(text, at);
    std::size_t after = at + sequence_length(text, at);
    if (!is_line_break(c)) {
      at = after;
      continue;
    }
    if (c == '\r' && after < text.size() && text[after] == '\n') ++after;
    lines.push_back(text.substr(start, (keep_ends ? after : at) - start));
    start = at = after;
  }
  if (start < text.size()) lines.push_back(text.substr(start));
  return lines;
}

}  // namespace qlora::jinja::unicode
