// Words as NLTK's word_tokenize cuts them, which the official parser stands on, for text that has no quotes left.
#include <algorithm>
#include <array>
#include <map>

#include "qlora/eval/score/spider_sql.h"

namespace qlora {
namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_space(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r') || (c >= '\x1c' && c <= '\x1f');
}
bool one_of(char c, std::string_view set) {
  return set.find(c) != std::string_view::npos;
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
}

// Unicode's spaces become one, its quotation marks become words of their own.
void plain_spaces_and_marks(std::string& text) {
  static constexpr std::array<std::string_view, 19> kSpaces = {
      "\u0085", "\u00a0", "\u1680", "\u2000", "\u2001", "\u2002", "\u2003", "\u2004", "\u2005", "\u2006",
      "\u2007", "\u2008", "\u2009", "\u200a", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"};
  static constexpr std::array<std::string_view, 7> kMarks = {"«", "“", "‘", "„", "»", "”", "’"};
  if (std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; })) return;
  for (auto space : kSpaces) replace_all(text, space, " ");
  for (auto mark : kMarks) replace_all(text, mark, " " + std::string(mark) + " ");
}

// Whether the period at `at` ends a sentence, for Punkt: white space or punctuation must follow, and a number or a
// single letter before it is an ordinal or an initial where a small letter follows.
bool ends_sentence(const std::string& text, size_t at) {
  size_t next = at + 1;
  if (next < text.size() && !is_space(text[next]) && !one_of(text[next], "?!)\";}]*:@'({[")) return false;
  while (next < text.size() && (is_space(text[next]) || one_of(text[next], ")]}"))) ++next;
  if (next == text.size()) return true;
  size_t start = at;
  while (start > 0 && !is_space(text[start - 1])) --start;
  const std::string_view word(text.data() + start, at - start);
  const bool ordinal = !word.empty() && std::all_of(word.begin(), word.end(), is_digit);
  const bool initial = word.size() == 1 && std::isalpha(static_cast<unsigned char>(word[0])) != 0;
  return !((ordinal || initial) && text[next] >= 'a' && text[next] <= 'z');
}

bool stands_alone(const std::string& text, size_t at) {
  const char c = text[at];
  if (one_of(c, ";@#$%&?!*[](){}<>`")) return true;
  if (one_of(c, ",:")) return at + 1 == text.size() || !is_digit(text[at + 1]);
  return c == '.' && at > 0 && text[at - 1] != '.' && ends_sentence(text, at);
}

std::vector<std::string> split_words(const std::string& text) {
  std::vector<std::string> words;
  std::string word;
  const auto flush = [&] {
    if (!word.empty()) words.push_back(std::move(word));
    word.clear();
  };
  for (size_t i = 0; i < text.size(); ++i) {
    const bool dots = text.compare(i, 2, "..") == 0;
    if (is_space(text[i])) {
      flush();
    } else if (dots || text.compare(i, 2, "--") == 0) {
      flush();
      const size_t end = dots ? std::min(text.find_first_not_of('.', i), text.size()) : i + 2;
      words.push_back(text.substr(i, end - i));
      i = end - 1;
    } else if (stands_alone(text, i)) {
      flush();
      words.emplace_back(1, text[i]);
    } else {
      word += text[i];
    }
  }
  flush();
  return words;
}

// Strings leave the text for keys that no rule cuts, so that their contents cannot be taken for words.
std::string take_strings_out(std::string_view sql, std::map<std::string, std::string>& strings) {
  std::string text;
  for (size_t i = 0; i < sql.size(); ++i) {
    if (sql[i] != '"' && sql[i] != '\'') {
      text += sql[i];
      continue;
    }
    const size_t end = sql.find_first_of("\"'", i + 1);
    if (end == std::string_view::npos) throw SpiderSyntaxError("an odd number of quotes");
    const std::string key = "__val_" + std::to_string(i) + "_" + std::to_string(end) + "__";
    strings[key] = "\"" + std::string(sql.substr(i + 1, end - i - 1)) + "\"";
    text += key;
    i = end;
  }
  return text;
}

// "> =" and ">=" are one operator; so are "<" and "!" before "=".
void join_operators(std::vector<std::string>& words) {
  for (size_t i = words.size(); i-- > 1;) {
    if (words[i] != "=") continue;
    const std::string& before = words[i - 1];
    if (before != "!" && before != ">" && before != "<") continue;
    words[i - 1] += "=";
    words.erase(words.begin() + static_cast<std::ptrdiff_t>(i));
  }
}

}  // namespace

std::vector<std::string> tokenize_spider_sql(std::string_view sql) {
  std::map<std::string, std::string> strings;
  std::string text = take_strings_out(sql, strings);
  plain_spaces_and_marks(text);
  std::vector<std::string> words = split_words(text);
  for (auto& word : words) {
    word = lower_ascii(word);
    if (const auto found = strings.find(word); found != strings.end()) word = found->second;
  }
  join_operators(words);
  return words;
}

}  // namespace qlora
