#include "qlora/eval/score/sql_text.h"

#include <array>

#include "qlora/eval/score/spider_schema.h"

namespace qlora {
namespace {

constexpr std::string_view kSpaces = " \t\r\n\f\v";

bool is_word(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return std::isalnum(byte) != 0 || c == '_' || byte >= 0x80;
}
bool is_space(char c) {
  return kSpaces.find(c) != std::string_view::npos;
}

bool starts_with_word(std::string_view text, std::string_view lower_word) {
  return text.size() >= lower_word.size() && lower_ascii(text.substr(0, lower_word.size())) == lower_word &&
         (text.size() == lower_word.size() || !is_word(text[lower_word.size()]));
}

// One piece of SQL text: a word, a number, a quoted string or name, a comment, white space, or one character.
enum class Piece { kWord, kString, kQuotedName, kComment, kSpace, kOther };

size_t quoted_end(std::string_view sql, size_t at, char quote) {
  for (size_t i = at + 1; i < sql.size(); ++i) {
    if (sql[i] != quote) continue;
    if (i + 1 < sql.size() && sql[i + 1] == quote) {
      ++i;
    } else {
      return i + 1;
    }
  }
  return sql.size();
}

size_t end_after(std::string_view sql, std::string_view mark, size_t from) {
  const size_t found = sql.find(mark, from);
  return found == std::string_view::npos ? sql.size() : found + mark.size();
}

std::pair<Piece, size_t> next_piece(std::string_view sql, size_t at) {
  const char c = sql[at];
  if (c == '\'' || c == '"') return {Piece::kString, quoted_end(sql, at, c)};
  if (c == '`') return {Piece::kQuotedName, quoted_end(sql, at, c)};
  if (c == '[' && sql.find(']', at) != std::string_view::npos) return {Piece::kQuotedName, sql.find(']', at) + 1};
  if (sql.compare(at, 2, "--") == 0) return {Piece::kComment, end_after(sql, "\n", at)};
  if (sql.compare(at, 2, "/*") == 0) return {Piece::kComment, end_after(sql, "*/", at + 2)};
  size_t end = at;
  if (is_space(c)) {
    while (end < sql.size() && is_space(sql[end])) ++end;
    return {Piece::kSpace, end};
  }
  while (end < sql.size() && (is_word(sql[end]) || (end > at && (sql[end] == '$' || sql[end] == '#')))) ++end;
  return end > at ? std::pair{Piece::kWord, end} : std::pair{Piece::kOther, at + 1};
}

std::string first_statement_without_distinct(std::string_view sql) {
  std::string out;
  int depth = 0;
  for (size_t at = 0; at < sql.size();) {
    const auto [piece, end] = next_piece(sql, at);
    const std::string_view text = sql.substr(at, end - at);
    at = end;
    if (piece == Piece::kWord && lower_ascii(text) == "distinct") continue;
    out += text;
    depth += text == "(" ? 1 : text == ")" ? -1 : 0;
    if (text == ";" && depth <= 0) break;
  }
  return out;
}

// The end of YEAR ( CURDATE ( ) ) at `at`, with the white space after it; npos where it does not stand there.
size_t current_year_end(const std::string& lower, size_t at) {
  static constexpr std::array<std::string_view, 7> kParts = {"year", "(", "curdate", "(", ")", ")", ""};
  for (const auto part : kParts) {
    while (at < lower.size() && part != "year" && is_space(lower[at])) ++at;
    if (lower.compare(at, part.size(), part) != 0) return std::string::npos;
    at += part.size();
  }
  return at;
}

std::string normal_piece(Piece piece, std::string_view text) {
  const bool closed = text.size() >= 2 && (text.back() == text.front() || text.back() == ']');
  if (piece == Piece::kString && closed) return "'" + std::string(text.substr(1, text.size() - 2)) + "'";
  if (piece == Piece::kQuotedName && closed) return lower_ascii(text.substr(1, text.size() - 2));
  return piece == Piece::kWord ? lower_ascii(text) : std::string(text);
}

// --- Extraction.

bool starts_query(std::string_view text) {
  while (!text.empty() && (is_space(text[0]) || text[0] == '(')) text.remove_prefix(1);
  return starts_with_word(text, "select") || starts_with_word(text, "with");
}

// The first fenced block that holds a query, without its language tag; empty where there is none.
std::string_view fenced_query(std::string_view answer) {
  static constexpr std::string_view kFence = "```";
  for (size_t open = answer.find(kFence); open != std::string_view::npos;) {
    size_t start = open + kFence.size();
    while (start < answer.size() && (is_word(answer[start]) || answer[start] == '+' || answer[start] == '-') &&
           !starts_query(answer.substr(start))) {
      ++start;
    }
    const size_t close = answer.find(kFence, start);
    const std::string_view block = answer.substr(start, close == std::string_view::npos ? close : close - start);
    if (starts_query(block)) return block;
    if (close == std::string_view::npos) break;
    open = answer.find(kFence, close + kFence.size());
  }
  return {};
}

// Where a word stands last behind the first place; 0 where nowhere.
size_t last_word(std::string_view text, std::string_view lower_word) {
  for (size_t at = text.size(); at-- > 1;) {
    if (!is_word(text[at - 1]) && starts_with_word(text.substr(at), lower_word)) return at;
  }
  return 0;
}

bool may_start_here(std::string_view answer, size_t at, size_t last_from, size_t last_as) {
  const std::string_view rest = answer.substr(at);
  const bool select = starts_with_word(rest, "select");
  if (!select && !starts_with_word(rest, "with")) return false;
  if ((select ? last_from : last_as) <= at) return false;
  if (rest.starts_with(select ? "SELECT" : "WITH")) return true;
  size_t before = at;
  while (before > 0 && answer[before - 1] == ' ') --before;
  return before == 0 || answer[before - 1] == '\n' || answer[before - 1] == ':' || answer[before - 1] == '`';
}

// A line of prose after a query: a capital, then small letters, more words, and a full stop or colon at its end.
bool reads_as_sentence(std::string_view line) {
  line = trim(line);
  if (line.size() < 3 || std::isupper(static_cast<unsigned char>(line[0])) == 0) return false;
  const bool small = std::islower(static_cast<unsigned char>(line[1])) != 0 || line[1] == ' ' || line[1] == '\'';
  const char last = line.back();
  return small && line.find(' ') != std::string_view::npos && (last == '.' || last == ':' || last == '!');
}

size_t query_end(std::string_view text, bool in_backquotes) {
  for (size_t at = 0; at < text.size();) {
    const std::string_view rest = text.substr(at);
    if (rest[0] == ';' || rest.starts_with("```") || (in_backquotes && rest[0] == '`')) return at;
    if (rest[0] == '\n') {
      const std::string_view line = rest.substr(1, rest.find('\n', 1) - 1);
      if (trim(line).empty() || reads_as_sentence(line)) return at;
    }
    const auto [piece, end] = next_piece(text, at);
    const bool whole = piece == Piece::kString || piece == Piece::kQuotedName || piece == Piece::kWord;
    at = whole ? end : at + 1;
  }
  return text.size();
}

}  // namespace

std::string_view trim(std::string_view text) {
  const size_t first = text.find_first_not_of(kSpaces);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kSpaces) - first + 1);
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
}

std::string with_current_year(std::string_view sql) {
  const std::string lower = lower_ascii(sql);
  std::string out;
  for (size_t at = 0; at < sql.size();) {
    const size_t end = lower[at] == 'y' ? current_year_end(lower, at) : std::string::npos;
    out += end == std::string::npos ? std::string(1, sql[at]) : "2020";
    at = end == std::string::npos ? at + 1 : end;
  }
  return out;
}

std::string without_distinct(std::string_view sql) {
  std::string text(trim(sql));
  replace_all(text, "> =", ">=");
  replace_all(text, "< =", "<=");
  replace_all(text, "! =", "!=");
  return first_statement_without_distinct(text);
}

std::string executable_gold(std::string_view sql) {
  return with_current_year(without_distinct(sql));
}

std::string parsable_prediction(std::string_view sql) {
  std::string text(trim(sql));
  replace_all(text, " value ", " 1 ");
  return text;
}

std::string executable_prediction(std::string_view sql) {
  return with_current_year(without_distinct(parsable_prediction(sql)));
}

bool order_matters(std::string_view executable_gold) {
  return lower_ascii(executable_gold).find("order by") != std::string::npos;
}

std::string normalize_sql(std::string_view sql) {
  std::string out;
  for (size_t at = 0; at < sql.size();) {
    const auto [piece, end] = next_piece(sql, at);
    if (piece != Piece::kSpace && piece != Piece::kComment) {
      if (!out.empty()) out += ' ';
      out += normal_piece(piece, sql.substr(at, end - at));
    }
    at = end;
  }
  while (out.ends_with(" ;") || out == ";") out.resize(out.size() - std::min<size_t>(2, out.size()));
  return out;
}

std::string extract_sql(std::string_view answer) {
  std::string_view query = fenced_query(answer);
  bool in_backquotes = false;
  const size_t last_from = last_word(answer, "from"), last_as = last_word(answer, "as");
  for (size_t at = 0; query.empty() && at < answer.size(); ++at) {
    if ((at > 0 && is_word(answer[at - 1])) || !may_start_here(answer, at, last_from, last_as)) continue;
    in_backquotes = at > 0 && answer[at - 1] == '`';
    query = answer.substr(at);
  }
  if (query.empty()) return std::string(trim(answer));
  query.remove_prefix(query.find_first_not_of(kSpaces));
  return std::string(trim(query.substr(0, query_end(query, in_backquotes))));
}

}  // namespace qlora
