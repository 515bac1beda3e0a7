// Unicode as Python's str sees it, over UTF-8: characters are code points, classes and case maps are Unicode's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace qlora::jinja::unicode {

// Bytes of the character that starts at `at`; the text must be valid UTF-8.
std::size_t sequence_length(std::string_view text, std::size_t at);
// Code points.
std::size_t length(std::string_view text);
// The byte offset of the code point `index`; text.size() past the end.
std::size_t offset(std::string_view text, std::size_t index);
char32_t decode(std::string_view text, std::size_t at);
void append(std::string& out, char32_t character);
std::u32string to_characters(std::string_view text);
std::string to_utf8(std::u32string_view characters);
// The byte of the first broken sequence, or npos.
std::size_t find_invalid(std::string_view text);

bool is_space(char32_t c);
bool is_letter(char32_t c);
bool is_decimal(char32_t c);
bool is_digit(char32_t c);
bool is_numeric(char32_t c);
bool is_alphanumeric(char32_t c);
bool is_word(char32_t c);  // \w of Python's re
bool is_lower(char32_t c);
bool is_upper(char32_t c);
bool is_title(char32_t c);
bool is_printable(char32_t c);
bool is_line_break(char32_t c);  // of str.splitlines
bool is_identifier(std::string_view text);

// Full case maps, as str.upper(), str.lower(), str.title(), str.capitalize(), str.swapcase() apply them.
std::string upper(std::string_view text);
std::string lower(std::string_view text);
std::string title(std::string_view text);
std::string capitalize(std::string_view text);
std::string swapcase(std::string_view text);
std::string casefold(std::string_view text);

// `characters` null: white space. A view into text.
std::string_view strip_left(std::string_view text, const std::string_view* characters = nullptr);
std::string_view strip_right(std::string_view text, const std::string_view* characters = nullptr);
std::string_view strip(std::string_view text, const std::string_view* characters = nullptr);

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends);

}  // namespace qlora::jinja::unicode
