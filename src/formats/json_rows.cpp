#include "qlora/formats/json_rows.h"

#include <algorithm>
#include <cctype>

#include <fmt/format.h>

#include "qlora/core/error.h"

namespace qlora {
namespace {

bool is_space(char c) {
  return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

// nlohmann's own words, without its class and position, which it counts from the row's first byte.
std::string cause_of(const Json::exception& error) {
  std::string text = error.what();
  const auto position = text.find("parse error at ");
  if (position == std::string::npos) return text;
  const auto colon = text.find(": ", position);
  return colon == std::string::npos ? text : text.substr(colon + 2);
}

// Line and column (both from 1) of a byte offset; columns count bytes, as compilers do.
std::string line_and_column(std::string_view text, std::size_t offset) {
  offset = std::min(offset, text.size());
  const auto before = text.substr(0, offset);
  const auto newline = before.rfind('\n');
  const auto column = newline == std::string_view::npos ? offset + 1 : offset - newline;
  return fmt::format("{}:{}", 1 + static_cast<std::size_t>(std::count(before.begin(), before.end(), '\n')), column);
}

// Offset of the first bracket that is nested deeper than kMaxDepth, else npos: nlohmann copies and prints recursively.
std::size_t too_deep(std::string_view source) {
  int depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < source.size(); ++i) {
    const char c = source[i];
    if (in_string) {
      if (c == '\\') ++i;
      in_string = c != '"';
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > JsonRows::kMaxDepth) return i;
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return std::string_view::npos;
}

}  // namespace

JsonRows::JsonRows(const std::filesystem::path& path) : name_(path.string()), file_(path) {
  const auto text = file_.text();
  const std::size_t begin = text.size() - without_byte_order_mark(text).size();
  auto first = begin;
  while (first < text.size() && is_space(text[first])) ++first;
  if (first == text.size()) return;
  if (text[first] == '[') {
    split_array(first);
  } else {
    split_lines(begin);
    join_lines_of_one_object(first);
  }
}

// A file that holds one object over several lines.
void JsonRows::join_lines_of_one_object(std::size_t begin) {
  if (rows_.size() < 2 || file_.text()[begin] != '{') return;
  std::size_t line = rows_.front().line;
  const std::size_t last = rows_.back().end;
  if (end_of_value(begin, line) == last) rows_ = {{begin, last, rows_.front().line, rows_.front().column}};
}

void JsonRows::split_lines(std::size_t begin) {
  const auto text = file_.text();
  std::size_t line = 1;
  for (auto at = begin; at < text.size(); ++line) {
    const auto newline = std::min(text.find('\n', at), text.size());
    auto first = at;
    auto last = newline;
    while (first < last && is_space(text[first])) ++first;
    while (last > first && is_space(text[last - 1])) --last;
    if (first < last) rows_.push_back({first, last, line, first - at + 1});
    at = newline + 1;
  }
}

void JsonRows::split_array(std::size_t begin) {
  const auto text = file_.text();
  std::size_t line = 1 + static_cast<std::size_t>(std::count(text.begin(), text.begin() + begin, '\n'));
  auto at = begin + 1;
  const auto skip_space = [&] {
    for (; at < text.size() && is_space(text[at]); ++at) line += text[at] == '\n';
    if (at == text.size())
      throw DataError(fmt::format("{}: the array that it begins is not closed by ]", place_of(at)));
  };
  skip_space();
  while (text[at] != ']') {
    const bool shares_line = !rows_.empty() && rows_.back().line == line;
    const auto column = shares_line ? rows_.back().column + (at - rows_.back().begin) : at - text.rfind('\n', at);
    const auto first_line = line;
    const auto end = end_of_value(at, line);
    if (end == std::string_view::npos) {
      throw DataError(
          fmt::format("{}: this value has no end: a bracket or a quotation mark is not closed", place_of(at)));
    }
    rows_.push_back({at, end, first_line, column});
    at = end;
    skip_space();
    if (text[at] == ',') {
      ++at;
      skip_space();
      if (text[at] == ']') throw DataError(fmt::format("{}: a value is missing before ]", place_of(at)));
    } else if (text[at] != ']') {
      throw DataError(fmt::format("{}: a comma or ] is missing after an array's value", place_of(at)));
    }
  }
  const auto rest = text.substr(at + 1);
  const auto extra = std::find_if_not(rest.begin(), rest.end(), is_space);
  if (extra != rest.end()) {
    throw DataError(fmt::format("{}: nothing may follow the array that the file holds (one object a line needs no [ ])",
                                place_of(at + 1 + static_cast<std::size_t>(extra - rest.begin()))));
  }
}

// Where the value that begins here ends, npos where it does not: brackets are counted outside of strings. What is wrong
// inside is for the parser.
std::size_t JsonRows::end_of_value(std::size_t begin, std::size_t& line) const {
  const auto text = file_.text();
  int depth = 0;
  bool in_string = false;
  for (auto at = begin; at < text.size(); ++at) {
    const char c = text[at];
    if (c == '\n') ++line;
    if (in_string) {
      if (c == '\\') ++at;
      in_string = c != '"';
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      ++depth;
    } else if (c == '}' || c == ']') {
      if (depth == 0) return at;  // the outer array's own end
      if (--depth == 0) return at + 1;
    } else if (depth == 0 && (c == ',' || is_space(c))) {
      line -= c == '\n';
      return at;
    }
  }
  return std::string_view::npos;
}

std::string JsonRows::place_of(std::size_t byte) const {
  return fmt::format("{}:{}", name_, line_and_column(file_.text(), byte));
}

Json JsonRows::parse(std::size_t i) const {
  const auto text = source(i);
  const auto begin = rows_[i].begin;
  if (const auto deep = too_deep(text); deep != std::string_view::npos) {
    throw DataError(fmt::format("{}: values are nested deeper than {}", place_of(begin + deep), kMaxDepth));
  }
  Json row;
  try {
    row = Json::parse(text);
  } catch (const Json::parse_error& error) {
    const auto offset = error.byte == 0 ? 0 : error.byte - 1;
    throw DataError(fmt::format("{}: broken JSON: {}{}", place_of(begin + offset), cause_of(error),
                                offset < text.size() ? "" : " (rows are one object a line, or a list [...] of them)"));
  } catch (const Json::exception& error) {
    throw DataError(fmt::format("{}: broken JSON: {}", place(i), cause_of(error)));
  }
  if (!row.is_object()) {
    throw DataError(fmt::format("{}: a row must be a JSON object ({{...}}), this is {}", place(i), row.type_name()));
  }
  return row;
}

std::string_view JsonRows::source(std::size_t i) const {
  return file_.text().substr(rows_[i].begin, rows_[i].end - rows_[i].begin);
}

std::string JsonRows::place(std::size_t i) const {
  const auto same_line = [&](std::size_t other) { return other < rows_.size() && rows_[other].line == rows_[i].line; };
  const std::string place = fmt::format("{}:{}", name_, rows_[i].line);
  return same_line(i - 1) || same_line(i + 1) ? fmt::format("{}:{}", place, rows_[i].column) : place;
}

}  // namespace qlora
