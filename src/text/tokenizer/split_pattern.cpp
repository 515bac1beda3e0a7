#include "qlora/text/tokenizer/split_pattern.h"

#include "qlora/text/tokenizer/unicode.h"

namespace qlora {
namespace {

constexpr std::string_view kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// Walks over characters with their classes.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text), classes_(character_classes().data()) {}

  // Class bits of the character at `at`; 0 is none of letter, number, space.
  std::uint8_t class_at(std::size_t at, std::uint32_t& length) const {
    const auto lead = static_cast<unsigned char>(text_[at]);
    if (lead < 0x80) {
      length = 1;
      return classes_[lead];
    }
    const CodePoint point = code_point_at(text_, at);
    length = point.length;
    return point.value < 0x40000 ? classes_[point.value] : std::uint8_t{0};
  }

  // End of the run, from `at`, of characters whose class is `wanted`.
  std::size_t run_end(std::size_t at, std::uint8_t wanted, std::size_t most = ~std::size_t{0}) const {
    std::uint32_t length = 0;
    while (at < text_.size() && most-- > 0 && class_at(at, length) == wanted) at += length;
    return at;
  }

  bool is_class(std::size_t at, std::uint8_t wanted) const {
    std::uint32_t length = 0;
    return at < text_.size() && class_at(at, length) == wanted;
  }

  // 's 't 're 've 'm 'll 'd: bytes of the match at an apostrophe, 0 for none.
  std::size_t contraction(std::size_t at, bool any_case) const {
    const std::string_view rest = text_.substr(at + 1, 2);
    if (rest.empty()) return 0;
    if (any_case && rest == "\xC5\xBF") return 3;  // U+017F, a lower case S
    const char first = fold(rest[0], any_case);
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
    if (rest.size() < 2) return 0;
    const char second = fold(rest[1], any_case);
    const bool two =
        (first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l');
    return two ? 3 : 0;
  }

  // \s+(?!\S)|\s+ for the run of spaces [at, end): all at the end of the text, else all but the last one of several.
  std::size_t spaces_end(std::size_t at, std::size_t end) const {
    if (end == text_.size()) return end;
    std::size_t last = end - 1;
    while ((static_cast<unsigned char>(text_[last]) & 0xC0) == 0x80) --last;
    return last == at ? end : last;
  }

 private:
  static char fold(char c, bool any_case) { return any_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

  std::string_view text_;
  const std::uint8_t* classes_;
};

std::size_t next_gpt2(const Scanner& scanner, std::string_view text, std::size_t at) {
  if (text[at] == '\'') {
    if (const std::size_t length = scanner.contraction(at, false)) return at + length;
  }
  std::uint32_t length = 0;
  const std::uint8_t own = scanner.class_at(at, length);
  if (own != kWhiteSpace) return scanner.run_end(at + length, own);
  if (text[at] == ' ' && at + 1 < text.size()) {
    const std::uint8_t next = scanner.class_at(at + 1, length);
    if (next != kWhiteSpace) return scanner.run_end(at + 1 + length, next);
  }
  return scanner.spaces_end(at, scanner.run_end(at, kWhiteSpace));
}

// Past the last line break of [at, end); 0 where there is none.
std::size_t past_line_break(std::string_view text, std::size_t at, std::size_t end) {
  const std::size_t found = text.substr(at, end - at).find_last_of("\r\n");
  return found == std::string_view::npos ? 0 : at + found + 1;
}

// The patterns of Qwen2 and Llama-3, which differ in how many digits stay together.
std::size_t next_modern(const Scanner& scanner, std::string_view text, std::size_t at, std::size_t digits) {
  if (text[at] == '\'') {
    if (const std::size_t length = scanner.contraction(at, true)) return at + length;
  }
  std::uint32_t length = 0;
  const std::uint8_t own = scanner.class_at(at, length);
  if (own == kLetter) return scanner.run_end(at + length, kLetter);
  if (own == kNumber) return scanner.run_end(at + length, kNumber, digits - 1);
  const bool line_break = text[at] == '\r' || text[at] == '\n';
  if (!line_break && scanner.is_class(at + length, kLetter)) return scanner.run_end(at + length, kLetter);
  std::size_t symbols = at;
  if (own == 0) symbols = at + length;
  if (text[at] == ' ' && scanner.is_class(at + 1, 0)) symbols = at + 1;
  if (symbols != at) {
    symbols = scanner.run_end(symbols, 0);
    while (symbols < text.size() && (text[symbols] == '\r' || text[symbols] == '\n')) ++symbols;
    return symbols;
  }
  const std::size_t end = scanner.run_end(at, kWhiteSpace);
  if (const std::size_t past = past_line_break(text, at, end)) return past;
  return scanner.spaces_end(at, end);
}

template <typename Next>
void scan(std::string_view text, std::uint32_t offset, std::vector<TextPiece>& out, const Next& next) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = next(at);
    out.push_back({offset + static_cast<std::uint32_t>(at), offset + static_cast<std::uint32_t>(end), -1});
    at = end;
  }
}

}  // namespace

const std::string_view kGpt2Pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

std::optional<KnownPattern> find_known_pattern(std::string_view pattern) {
  for (const KnownPattern known : {KnownPattern::kGpt2, KnownPattern::kQwen2, KnownPattern::kLlama3}) {
    if (pattern == pattern_text(known)) return known;
  }
  return std::nullopt;
}

std::string_view pattern_text(KnownPattern pattern) {
  if (pattern == KnownPattern::kGpt2) return kGpt2Pattern;
  return pattern == KnownPattern::kQwen2 ? kQwen2Pattern : kLlama3Pattern;
}

void scan_known_pattern(KnownPattern pattern, std::string_view text, std::uint32_t offset,
                        std::vector<TextPiece>& out) {
  const Scanner scanner(text);
  if (pattern == KnownPattern::kGpt2) {
    return scan(text, offset, out, [&](std::size_t at) { return next_gpt2(scanner, text, at); });
  }
  const std::size_t digits = pattern == KnownPattern::kQwen2 ? 1 : 3;
  scan(text, offset, out, [&](std::size_t at) { return next_modern(scanner, text, at, digits); });
}

}  // namespace qlora
