#include "qlora/eval/score/plug_values.h"

#include <algorithm>
#include <cctype>
#include <sstream>

#include "qlora/eval/score/spider_schema.h"
#include "qlora/eval/score/sql_text.h"

namespace qlora {
namespace {

constexpr std::string_view kPlace = "VALUERARE";  // what the evaluator marks a value with

bool is_digit(char c) {
  return std::isdigit(static_cast<unsigned char>(c)) != 0;
}

bool is_word(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return std::isalnum(byte) != 0 || c == '_' || byte >= 0x80;
}

size_t run_end(std::string_view sql, size_t at, std::string_view characters) {
  return std::min(sql.find_first_not_of(characters, at), sql.size());
}

size_t digits_end(std::string_view sql, size_t at) {
  while (at < sql.size() && is_digit(sql[at])) ++at;
  return at;
}

// The end of the string or name in quotes at `at`; a quote that stays open is a token of its own.
size_t quoted_end(std::string_view sql, size_t at) {
  for (size_t i = at + 1; i < sql.size(); ++i) {
    if (sql[i] != sql[at]) continue;
    if (i + 1 == sql.size() || sql[i + 1] != sql[at]) return i + 1;
    ++i;
  }
  return at + 1;
}

// The end of a number at `at`, with a minus that stands before it; `at` where there is none.
size_t number_end(std::string_view sql, size_t at) {
  const size_t start = at + (sql[at] == '-' ? 1 : 0);
  size_t end = digits_end(sql, start);
  const bool whole = end > start;
  if (end < sql.size() && sql[end] == '.' && (whole || digits_end(sql, end + 1) > end + 1)) {
    end = digits_end(sql, end + 1);
  } else if (!whole) {
    return at;
  }
  return end < sql.size() && is_word(sql[end]) ? at : end;
}

// The end of the token at `at`, where sqlparse sees one.
size_t token_end(std::string_view sql, size_t at) {
  const char c = sql[at];
  if (c == '\'' || c == '"' || c == '`') return quoted_end(sql, at);
  if (sql.substr(at).starts_with("--") || sql.substr(at).starts_with("# "))
    return std::min(sql.find('\n', at), sql.size());
  if (sql.substr(at).starts_with("/*") && sql.find("*/", at + 2) != std::string_view::npos)
    return sql.find("*/", at + 2) + 2;
  if (const size_t end = number_end(sql, at); end > at) return end;
  if (is_word(c)) {
    size_t end = at;
    while (end < sql.size() && (is_word(sql[end]) || sql[end] == '$' || sql[end] == '#')) ++end;
    return end;
  }
  for (const std::string_view operators : {std::string_view("<>=~!"), std::string_view("+/@#%^&|-")}) {
    if (operators.find(c) != std::string_view::npos && c != '-') return run_end(sql, at, operators);
  }
  return at + 1;
}

// [-+]?\d*\.\d+
bool is_float(std::string_view word) {
  const size_t start = !word.empty() && (word[0] == '-' || word[0] == '+') ? 1 : 0;
  const size_t point = digits_end(word, start);
  return point + 1 < word.size() && word[point] == '.' && digits_end(word, point + 1) == word.size();
}

// [^tT]?\d+
bool is_integer(std::string_view word) {
  if (word.empty() || word[0] == 't' || word[0] == 'T') return false;
  const bool digit = is_digit(word[0]);
  return digits_end(word, 1) == word.size() && (digit || word.size() > 1);
}

// The words of a query, values as kPlace; those go to `values`.
std::vector<std::string> words_of(std::string_view sql, std::vector<std::string>& values) {
  std::string text(trim(sql));
  std::erase_if(text, [](char c) { return c == ';' || c == '\t'; });
  std::string spaced;
  std::vector<std::string> strings;
  for (size_t at = 0; at < text.size();) {
    const size_t end = token_end(text, at);
    const std::string token = text.substr(at, end - at);
    at = end;
    if (trim(token).empty()) continue;
    spaced += token + " ";
    if (token.size() > 1 && (token[0] == '\'' || token[0] == '"')) strings.push_back(token);
  }
  for (const std::string& token : strings) replace_all(spaced, token, kPlace);
  std::istringstream in(spaced);
  std::vector<std::string> words;
  for (std::string word; in >> word; words.push_back(word)) {
    if (!is_float(word) && !is_integer(word)) continue;
    values.push_back(word);
    word = kPlace;
  }
  values.insert(values.end(), strings.begin(), strings.end());
  return words;
}

}  // namespace

ValuePlugging::ValuePlugging(std::string_view gold, std::string_view prediction) {
  words_of(without_distinct(gold), values_);
  std::sort(values_.begin(), values_.end());
  values_.erase(std::unique(values_.begin(), values_.end()), values_.end());
  std::vector<std::string> own;
  words_ = words_of(without_distinct(parsable_prediction(prediction)), own);
  for (size_t i = 0; i < words_.size(); ++i) {
    if (words_[i] == kPlace) places_.push_back(i);
    words_[i] = lower_ascii(words_[i]);
  }
  chosen_.assign(places_.size(), 0);
  done_ = values_.empty() && !places_.empty();
}

std::optional<std::string> ValuePlugging::next() {
  if (done_) return std::nullopt;
  for (size_t p = 0; p < places_.size(); ++p) words_[places_[p]] = values_[chosen_[p]];
  done_ = true;
  for (size_t p = 0; p < chosen_.size() && done_; ++p) {
    done_ = ++chosen_[p] == values_.size();
    if (done_) chosen_[p] = 0;
  }
  std::string sql;
  for (const std::string& word : words_) sql += (sql.empty() ? "" : " ") + word;
  return with_current_year(sql);
}

}  // namespace qlora
