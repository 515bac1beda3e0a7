// The lexer: one pass over the source, in the states text, tag, comment and raw.
#include "qlora/text/jinja/lexer.h"

#include <array>
#include <charconv>
#include <cmath>

#include <fmt/format.h>

#include "qlora/text/jinja/unicode.h"

namespace qlora::jinja {
namespace {

bool is_ascii_digit(char c) {
  return c >= '0' && c <= '9';
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(source) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) text();
    push(TokenType::kEnd, source_.size());
    return std::move(tokens_);
  }

 private:
  // The opening of a tag that ends a stretch of text.
  struct Opening {
    std::size_t at;
    char kind;          // '{', '%', '#', or 'r' for {% raw %}
    char sign;          // '-', '+' or 0
    std::size_t after;  // first byte behind it
  };

  void push(TokenType type, std::size_t at, std::string text = {}) {
    Token token;
    token.type = type;
    token.at = static_cast<std::uint32_t>(at);
    token.text = std::move(text);
    tokens_.push_back(std::move(token));
  }

  bool starts(std::size_t at, std::string_view what) const { return source_.substr(at).starts_with(what); }

  std::size_t skip_space(std::size_t at) const {
    while (at < source_.size() && unicode::is_space(unicode::decode(source_, at))) {
      at += unicode::sequence_length(source_, at);
    }
    return at;
  }

  // Of the white-space sign of a tag whose opening ends before `at`.
  char sign_at(std::size_t at) const {
    return at < source_.size() && (source_[at] == '-' || source_[at] == '+') ? source_[at] : '\0';
  }

  bool find_opening(Opening& opening) const {
    for (std::size_t at = source_.find('{', at_); at != std::string_view::npos; at = source_.find('{', at + 1)) {
      const char next = at + 1 < source_.size() ? source_[at + 1] : '\0';
      if (next != '{' && next != '%' && next != '#') continue;
      const char sign = sign_at(at + 2);
      opening = {at, next, sign, at + 2 + (sign ? 1 : 0)};
      if (next == '%') match_raw(opening);
      return true;
    }
    return false;
  }

  void match_raw(Opening& opening) const {
    std::size_t at = skip_space(opening.after);
    if (!starts(at, "raw")) return;
    at = skip_space(at + 3);
    if (starts(at, "-%}")) {
      opening.after = skip_space(at + 3);
    } else if (starts(at, "%}")) {
      opening.after = at + 2;
    } else {
      return;
    }
    opening.kind = 'r';
  }

  // White space that the sign of the following tag, or lstrip_blocks, takes from the end of a text.
  std::string_view trimmed(std::string_view text, char sign, bool block) const {
    if (sign == '-') return unicode::strip_right(text);
    if (sign == '+' || !block) return text;
    const std::size_t newline = text.rfind('\n');
    const std::size_t line = newline == std::string_view::npos ? 0 : newline + 1;
    if (line == 0 && !line_starting_) return text;
    return unicode::strip(text.substr(line)).empty() ? text.substr(0, line) : text;
  }

  void push_data(std::string_view text, std::size_t at) {
    if (!text.empty()) push(TokenType::kData, at, std::string(text));
  }

  void advance(std::size_t to) {
    line_starting_ = to > at_ && source_[to - 1] == '\n';
    at_ = to;
  }

  void text() {
    Opening opening{};
    if (!find_opening(opening)) {
      push_data(source_.substr(at_), at_);
      at_ = source_.size();
      return;
    }
    push_data(trimmed(source_.substr(at_, opening.at - at_), opening.sign, opening.kind != '{'), at_);
    advance(opening.after);
    if (opening.kind == '#') return comment(opening.at);
    if (opening.kind == 'r') return raw(opening.at);
    push(opening.kind == '{' ? TokenType::kVariableBegin : TokenType::kBlockBegin, opening.at);
    tag(opening.kind == '%');
  }

  // Behind `%}` or `#}` at `at`: trim_blocks takes one newline.
  std::size_t after_block(std::size_t at) const { return at < source_.size() && source_[at] == '\n' ? at + 1 : at; }

  // Matches `+%}`, `-%}` with white space behind it, `%}` with one newline.
  bool match_end(std::size_t at, std::string_view end, std::size_t& after) const {
    if (starts(at, end)) {
      after = end == "}}" ? at + 2 : after_block(at + 2);
    } else if (at < source_.size() && source_[at] == '-' && starts(at + 1, end)) {
      after = skip_space(at + 3);
    } else if (end != "}}" && at < source_.size() && source_[at] == '+' && starts(at + 1, end)) {
      after = at + 3;
    } else {
      return false;
    }
    return true;
  }

  void comment(std::size_t opened) {
    if (at_ == source_.size()) return;
    for (std::size_t at = at_; at < source_.size(); ++at) {
      std::size_t after = 0;
      if (match_end(at, "#}", after)) return advance(after);
    }
    throw SyntaxFailure(opened, "Missing end of comment tag");
  }

  void raw(std::size_t opened) {
    if (at_ == source_.size()) return;
    for (std::size_t at = source_.find("{%", at_); at != std::string_view::npos; at = source_.find("{%", at + 1)) {
      const char sign = sign_at(at + 2);
      std::size_t end = skip_space(at + 2 + (sign ? 1 : 0));
      if (!starts(end, "endraw")) continue;
      std::size_t after = 0;
      if (!match_end(skip_space(end + 6), "%}", after)) continue;
      push_data(trimmed(source_.substr(at_, at - at_), sign, true), at_);
      return advance(after);
    }
    throw SyntaxFailure(opened, "Missing end of raw directive");
  }

  void tag(bool block) {
    const std::string_view end = block ? "%}" : "}}";
    while (at_ < source_.size()) {
      std::size_t after = 0;
      if (open_.empty() && match_end(at_, end, after)) {
        push(block ? TokenType::kBlockEnd : TokenType::kVariableEnd, at_);
        return advance(after);
      }
      advance(expression_token());
    }
  }

  // Lexes one token of a tag at at_ and returns the byte behind it.
  std::size_t expression_token() {
    const char32_t c = unicode::decode(source_, at_);
    if (unicode::is_space(c)) return skip_space(at_);
    if (is_ascii_digit(source_[at_])) return number();
    if (unicode::is_word(c)) return name();
    if (c == '"' || c == '\'') {
      if (const std::size_t after = string()) return after;
    }
    return operator_token();
  }

  std::size_t digits(std::size_t at) const {  // digits with single underscores between them; `at` if there are none
    std::size_t end = at;
    while (end < source_.size() && is_ascii_digit(source_[end])) {
      ++end;
      if (end + 1 < source_.size() && source_[end] == '_' && is_ascii_digit(source_[end + 1])) ++end;
    }
    return end;
  }

  // The end of a float literal at at_, or 0.
  std::size_t float_end() const {
    if (at_ > 0 && source_[at_ - 1] == '.') return 0;
    std::size_t end = digits(at_);
    bool is_float = false;
    if (end < source_.size() && source_[end] == '.' && digits(end + 1) > end + 1) {
      end = digits(end + 1);
      is_float = true;
    }
    if (end < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
      std::size_t exponent = end + 1;
      if (exponent < source_.size() && (source_[exponent] == '+' || source_[exponent] == '-')) ++exponent;
      if (digits(exponent) > exponent) return digits(exponent);
    }
    return is_float ? end : 0;
  }

  std::size_t radix_end(int radix) const {  // behind 0x, 0o, 0b; 0 if no digit follows
    std::size_t end = at_ + 2;
    const auto is_radix_digit = [&](std::size_t at) {
      if (at >= source_.size()) return false;
      const char c = static_cast<char>(source_[at] | 0x20);
      const int value = is_ascii_digit(source_[at]) ? source_[at] - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : 99;
      return value < radix;
    };
    while (is_radix_digit(end) || (end < source_.size() && source_[end] == '_' && is_radix_digit(end + 1))) ++end;
    return end > at_ + 2 ? end : 0;
  }

  std::size_t number() {
    if (const std::size_t end = float_end()) {
      push(TokenType::kFloat, at_, without_underscores(at_, end));
      const std::string& text = tokens_.back().text;
      double value = 0;
      if (std::from_chars(text.data(), text.data() + text.size(), value).ec == std::errc::result_out_of_range) {
        value = text.find("e-") == std::string::npos && text.find("E-") == std::string::npos ? HUGE_VAL : 0.0;
      }
      tokens_.back().number = value;
      return end;
    }
    int radix = 10;
    std::size_t end = 0, first = at_;
    const char mark = at_ + 1 < source_.size() ? static_cast<char>(source_[at_ + 1] | 0x20) : '\0';
    if (source_[at_] == '0' && (mark == 'x' || mark == 'o' || mark == 'b')) {
      const int wanted = mark == 'x' ? 16 : mark == 'o' ? 8 : 2;
      if ((end = radix_end(wanted))) radix = wanted, first = at_ + 2;
    }
    if (!end && source_[at_] == '0') {  // 0, 00, 0_0; 01 is two tokens
      for (end = at_ + 1; end < source_.size() && (source_[end] == '0' || starts(end, "_0")); ++end) continue;
    }
    if (!end) end = digits(at_);
    push(TokenType::kInteger, at_, without_underscores(first, end));
    const std::string& text = tokens_.back().text;
    if (std::from_chars(text.data(), text.data() + text.size(), tokens_.back().integer, radix).ec != std::errc()) {
      throw SyntaxFailure(at_, "an integer needs more than 64 bits");
    }
    return end;
  }

  std::string without_underscores(std::size_t from, std::size_t to) const {
    std::string text;
    for (const char c : source_.substr(from, to - from)) {
      if (c != '_') text += c;
    }
    return text;
  }

  std::size_t name() {
    std::size_t end = at_;
    while (end < source_.size() && unicode::is_word(unicode::decode(source_, end))) {
      end += unicode::sequence_length(source_, end);
    }
    const std::string_view text = source_.substr(at_, end - at_);
    if (!unicode::is_identifier(text)) throw SyntaxFailure(at_, "Invalid character in identifier");
    push(TokenType::kName, at_, std::string(text));
    return end;
  }

  // Returns 0 where the string does not end.
  std::size_t string() {
    const char quote = source_[at_];
    for (std::size_t end = at_ + 1; end < source_.size(); ++end) {
      if (source_[end] == '\\') {
        ++end;
      } else if (source_[end] == quote) {
        push(TokenType::kString, at_, unescape(at_ + 1, end));
        return end + 1;
      }
    }
    return 0;
  }

  std::string unescape(std::size_t from, std::size_t to) const {
    std::string out;
    for (std::size_t at = from; at < to;) {
      if (source_[at] != '\\') {
        out += source_[at++];
      } else {
        at = escape(out, at + 1, to);
      }
    }
    return out;
  }

  // One escape sequence, `at` behind its backslash; returns the byte behind it.
  std::size_t escape(std::string& out, std::size_t at, std::size_t to) const {
    constexpr std::string_view kSimple = "n\nt\tr\r\\\\''\"\"a\ab\bf\fv\v";
    const char c = source_[at];
    for (std::size_t i = 0; i < kSimple.size(); i += 2) {
      if (kSimple[i] == c) {
        out += kSimple[i + 1];
        return at + 1;
      }
    }
    if (c == '\n') return at + 1;
    if (c >= '0' && c <= '7') return octal(out, at, to);
    if (c == 'x') return hexadecimal(out, at + 1, to, 2);
    if (c == 'u') return hexadecimal(out, at + 1, to, 4);
    if (c == 'U') return hexadecimal(out, at + 1, to, 8);
    if (c == 'N') throw SyntaxFailure(at - 1, "\\N{...} is not supported here: write the character itself");
    out += '\\';
    if (static_cast<unsigned char>(c) < 0x80) {
      out += c;
      return at + 1;
    }
    // Python escapes such a character before it resolves escapes, so the backslash guards its own escape.
    const auto code = static_cast<std::uint32_t>(unicode::decode(source_, at));
    out += code < 0x100     ? fmt::format("x{:02x}", code)
           : code < 0x10000 ? fmt::format("u{:04x}", code)
                            : fmt::format("U{:08x}", code);
    return at + unicode::sequence_length(source_, at);
  }

  std::size_t octal(std::string& out, std::size_t at, std::size_t to) const {
    char32_t code = 0;
    const std::size_t end = std::min(at + 3, to);
    for (; at < end && source_[at] >= '0' && source_[at] <= '7'; ++at)
      code = code * 8 + static_cast<char32_t>(source_[at] - '0');
    unicode::append(out, code);
    return at;
  }

  std::size_t hexadecimal(std::string& out, std::size_t at, std::size_t to, std::size_t count) const {
    std::uint32_t code = 0;
    const char* end = source_.data() + std::min(at + count, to);
    const auto result = std::from_chars(source_.data() + at, end, code, 16);
    if (result.ptr != source_.data() + at + count) throw SyntaxFailure(at - 2, "truncated escape in a string");
    if (code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) throw SyntaxFailure(at - 2, "illegal Unicode character");
    unicode::append(out, code);
    return at + count;
  }

  std::size_t operator_token() {
    static constexpr std::array<std::string_view, 26> kOperators = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                                                    "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                                                    ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};
    for (const std::string_view text : kOperators) {
      if (!starts(at_, text)) continue;
      balance(text[0]);
      push(TokenType::kOperator, at_, std::string(text));
      return at_ + text.size();
    }
    throw SyntaxFailure(
        at_, fmt::format("unexpected char '{}'", source_.substr(at_, unicode::sequence_length(source_, at_))));
  }

  void balance(char c) {
    if (c == '{' || c == '(' || c == '[') {
      open_ += c == '{' ? '}' : c == '(' ? ')' : ']';
    } else if (c == '}' || c == ')' || c == ']') {
      if (open_.empty()) throw SyntaxFailure(at_, fmt::format("unexpected '{}'", c));
      if (open_.back() != c) throw SyntaxFailure(at_, fmt::format("unexpected '{}', expected '{}'", c, open_.back()));
      open_.pop_back();
    }
  }

  std::string_view source_;
  std::size_t at_ = 0;
  bool line_starting_ = true;
  std::string open_;  // the closing brackets that are awaited
  std::vector<Token> tokens_;
};

}  // namespace

std::string normalize_source(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

std::vector<Token> tokenize(std::string_view source) {
  return Lexer(source).run();
}

std::string describe(const Token& token) {
  switch (token.type) {
    case TokenType::kData:
      return "template data / text";
    case TokenType::kVariableBegin:
      return "begin of print statement";
    case TokenType::kVariableEnd:
      return "end of print statement";
    case TokenType::kBlockBegin:
      return "begin of statement block";
    case TokenType::kBlockEnd:
      return "end of statement block";
    case TokenType::kString:
      return "string";
    case TokenType::kInteger:
      return "integer";
    case TokenType::kFloat:
      return "float";
    case TokenType::kEnd:
      return "end of template";
    default:
      return token.text;
  }
}

}  // namespace qlora::jinja
