// Patterns in Oniguruma's Ruby syntax, written as PCRE2 (UTF, UCP, multiline) means the same.
#include <array>
#include <map>
#include <stdexcept>

#include <fmt/format.h>

#include "qlora/text/tokenizer/regex.h"
#include "qlora/text/tokenizer/unicode.h"

namespace qlora {
namespace {

// Members of classes whose meaning differs between the engines. PCRE2's \s has U+180E; its \w lacks marks and more.
constexpr std::string_view kSpace =
    "\\x09-\\x0d\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}"
    "\\x{202f}\\x{205f}\\x{3000}";
constexpr std::string_view kHexDigit = "0-9a-fA-F";

const std::map<std::string_view, std::string_view>& long_category_names() {
  static const std::map<std::string_view, std::string_view> names = {{"letter", "L"},
                                                                     {"uppercaseletter", "Lu"},
                                                                     {"lowercaseletter", "Ll"},
                                                                     {"titlecaseletter", "Lt"},
                                                                     {"modifierletter", "Lm"},
                                                                     {"otherletter", "Lo"},
                                                                     {"mark", "M"},
                                                                     {"nonspacingmark", "Mn"},
                                                                     {"spacingmark", "Mc"},
                                                                     {"enclosingmark", "Me"},
                                                                     {"number", "N"},
                                                                     {"decimalnumber", "Nd"},
                                                                     {"letternumber", "Nl"},
                                                                     {"othernumber", "No"},
                                                                     {"punctuation", "P"},
                                                                     {"symbol", "S"},
                                                                     {"mathsymbol", "Sm"},
                                                                     {"currencysymbol", "Sc"},
                                                                     {"modifiersymbol", "Sk"},
                                                                     {"othersymbol", "So"},
                                                                     {"separator", "Z"},
                                                                     {"spaceseparator", "Zs"},
                                                                     {"other", "C"},
                                                                     {"control", "Cc"},
                                                                     {"alpha", "Alphabetic"},
                                                                     {"digit", "Nd"},
                                                                     {"upper", "Uppercase"},
                                                                     {"lower", "Lowercase"}};
  return names;
}

bool is_category(std::string_view name) {
  return name.size() <= 2 && std::string_view("LMNPSZC").find(name[0]) != std::string_view::npos;
}

bool is_binary_property(std::string_view name) {
  return name == "Any" || name == "Alphabetic" || name == "Uppercase" || name == "Lowercase" || name == "Emoji" ||
         name == "White_Space" || name == "Extended_Pictographic" || name == "ASCII" || name == "Ideographic";
}

std::string property_members(std::string_view raw) {
  std::string key;
  for (char c : raw) {
    if (c != '_' && c != ' ' && c != '-') key.push_back(static_cast<char>(std::tolower(static_cast<unsigned char>(c))));
  }
  const auto found = long_category_names().find(key);
  const std::string name(found == long_category_names().end() ? raw : found->second);
  if (!is_category(name)) {
    return is_binary_property(name) ? fmt::format("\\p{{{}}}", name) : fmt::format("\\p{{sc:{}}}", name);
  }
  std::string out = fmt::format("\\p{{{}}}", name);
  for (const CodePointRange& range : recent_code_points(name)) {
    out += fmt::format("\\x{{{:x}}}-\\x{{{:x}}}", static_cast<std::uint32_t>(range.first),
                       static_cast<std::uint32_t>(range.last));
  }
  return out;
}

std::string alphabetic_members() {
  return "\\p{Alphabetic}" + property_members("L");
}

std::string word_members() {
  // Oniguruma counts the superscripts and fractions of Latin-1 among the words.
  return alphabetic_members() + property_members("M") + property_members("Nd") +
         "\\p{Pc}\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}";
}

// The members of [:name:]; "" for an unknown name.
std::string posix_members(std::string_view name) {
  if (name == "alpha") return alphabetic_members();
  if (name == "alnum") return alphabetic_members() + property_members("Nd");
  if (name == "digit") return property_members("Nd");
  if (name == "punct") return property_members("P") + property_members("S");
  if (name == "space") return std::string(kSpace);
  if (name == "upper") return "\\p{Uppercase}" + property_members("Lu");
  if (name == "lower") return "\\p{Lowercase}" + property_members("Ll");
  if (name == "word") return word_members();
  if (name == "xdigit") return std::string(kHexDigit);
  if (name == "cntrl") return "\\p{Cc}";
  return "";
}

// Reads a pattern once from left to right and writes it anew.
class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}

  std::string run() {
    while (at_ < in_.size()) step();
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw std::invalid_argument(fmt::format("{} at offset {} of the pattern is not supported", what, at_));
  }

  bool starts_with(std::string_view text) const { return in_.substr(at_, text.size()) == text; }

  void copy(std::size_t count) {
    out_.append(in_.substr(at_, count));
    at_ += count;
  }

  void step() {
    const char c = in_[at_];
    if (c == '\\') return escape();
    if (c == '[') return begin_class();
    if (c == '(') return group();
    if (c == ')') {
      if (groups_.empty()) refuse("an unbalanced ')'");
      atom_ = groups_.back();
      groups_.pop_back();
      return copy(1);
    }
    if (c == '{') return repeat();
    const bool quantifier = c == '*' || c == '+' || c == '?';
    if (!quantifier) atom_ = out_.size();
    if (c == '|') return copy(1);
    if (static_cast<unsigned char>(c) < 0x80) return copy(1);
    copy(code_point_at(in_, at_).length);
  }

  // Ruby's {n,m}+ repeats the repetition, PCRE2's is possessive.
  void repeat() {
    const std::size_t close = in_.find('}', at_);
    if (close == std::string_view::npos || in_.find_first_not_of("0123456789,", at_ + 1) != close || close == at_ + 1) {
      out_ += "\\{";
      ++at_;
      return;
    }
    const bool low_missing = in_[at_ + 1] == ',';
    if (low_missing) out_ += "{0";
    if (low_missing) ++at_;
    copy(close + 1 - at_);
    if (at_ < in_.size() && in_[at_] == '+') {
      out_.insert(atom_, "(?:");
      out_ += ")";
    }
  }

  void group() {
    groups_.push_back(out_.size());
    atom_ = out_.size();
    if (!starts_with("(?")) return copy(1);
    const char kind = at_ + 2 < in_.size() ? in_[at_ + 2] : '\0';
    if (std::string_view(":=!>#<").find(kind) != std::string_view::npos) {
      if (starts_with("(?#")) {
        groups_.pop_back();
        const std::size_t close = in_.find(')', at_);
        at_ = close == std::string_view::npos ? in_.size() : close + 1;
        return;
      }
      return copy(kind == '<' && (starts_with("(?<=") || starts_with("(?<!")) ? 4 : 3);
    }
    options();
  }

  // Ruby's m lets the dot match a line feed, which is PCRE2's s.
  void options() {
    copy(2);
    while (at_ < in_.size() && in_[at_] != ':' && in_[at_] != ')') {
      const char c = in_[at_];
      if (c != 'i' && c != 'x' && c != 'm' && c != '-') refuse(fmt::format("the group option '{}'", c));
      out_.push_back(c == 'm' ? 's' : c);
      ++at_;
    }
    if (at_ == in_.size()) refuse("an unfinished group");
    if (in_[at_] == ')') groups_.pop_back();
    copy(1);
  }

  void escape() {
    atom_ = out_.size();
    if (at_ + 1 >= in_.size()) refuse("a backslash at the end");
    const char c = in_[at_ + 1];
    const std::string members = class_escape(c);
    if (!members.empty()) {
      out_ += (negated_ ? "[^" : "[") + members + "]";
      return;
    }
    if (c == 'b' || c == 'B') {
      const std::string word = "[" + word_members() + "]";
      const std::string_view form =
          c == 'b' ? "(?:(?<={0})(?!{0})|(?<!{0})(?={0}))" : "(?:(?<={0})(?={0})|(?<!{0})(?!{0}))";
      out_ += fmt::format(fmt::runtime(form), word);
      at_ += 2;
      return;
    }
    plain_escape(c);
  }

  void plain_escape(char c) {
    static constexpr std::string_view kSame = "nrtfvaeAzZGKRX";
    if (std::isdigit(static_cast<unsigned char>(c)) || kSame.find(c) != std::string_view::npos) {
      return copy(2);
    }
    if (c == 'x' || c == 'u') return hex_escape(c);
    if (std::isalpha(static_cast<unsigned char>(c))) refuse(fmt::format("the escape \\{}", c));
    if (static_cast<unsigned char>(c) < 0x80) return copy(2);
    ++at_;  // an escaped character outside of ASCII is itself
    copy(code_point_at(in_, at_).length);
  }

  void hex_escape(char c) {
    if (c == 'x' && starts_with("\\x{")) {
      const std::size_t close = in_.find('}', at_);
      if (close == std::string_view::npos) refuse("an unfinished \\x{");
      return copy(close + 1 - at_);
    }
    const std::size_t most = c == 'u' ? 4 : 2;
    std::size_t digits = 0;
    while (digits < most && at_ + 2 + digits < in_.size() &&
           std::isxdigit(static_cast<unsigned char>(in_[at_ + 2 + digits]))) {
      ++digits;
    }
    if (digits == 0 || (c == 'u' && digits < 4)) refuse(fmt::format("an unfinished \\{}", c));
    out_ += fmt::format("\\x{{{}}}", in_.substr(at_ + 2, digits));
    at_ += 2 + digits;
  }

  // The members of \s \S \w \W \d \D \h \H \p{..} \P{..} and past it, with negated_ set; "" for another escape.
  std::string class_escape(char c) {
    negated_ = std::isupper(static_cast<unsigned char>(c)) != 0;
    std::string members;
    switch (std::tolower(static_cast<unsigned char>(c))) {
      case 's':
        members = kSpace;
        break;
      case 'w':
        members = word_members();
        break;
      case 'd':
        members = property_members("Nd");
        break;
      case 'h':
        members = kHexDigit;
        break;
      case 'p':
        return property(c);
      default:
        return "";
    }
    at_ += 2;
    return members;
  }

  std::string property(char c) {
    if (at_ + 2 >= in_.size() || in_[at_ + 2] != '{') refuse(fmt::format("\\{} without braces", c));
    const std::size_t close = in_.find('}', at_);
    if (close == std::string_view::npos) refuse("an unfinished property");
    std::string_view name = in_.substr(at_ + 3, close - at_ - 3);
    if (!name.empty() && name[0] == '^') {
      negated_ = !negated_;
      name.remove_prefix(1);
    }
    if (name.empty()) refuse("an empty property");
    at_ = close + 1;
    return property_members(name);
  }

  void begin_class() {
    atom_ = out_.size();
    copy(1);
    if (at_ < in_.size() && in_[at_] == '^') copy(1);
    if (at_ < in_.size() && in_[at_] == ']') {  // literal where it comes first
      out_ += "\\]";
      ++at_;
    }
    while (at_ < in_.size() && in_[at_] != ']') class_member();
    if (at_ == in_.size()) refuse("an unfinished class");
    copy(1);
  }

  void class_member() {
    if (starts_with("&&")) refuse("an intersection of classes");
    if (starts_with("[:")) {
      const std::size_t close = in_.find(":]", at_);
      if (close == std::string_view::npos) refuse("an unfinished class");
      const std::string members = posix_members(in_.substr(at_ + 2, close - at_ - 2));
      if (members.empty()) refuse("the class " + std::string(in_.substr(at_, close + 2 - at_)));
      out_ += members;
      at_ = close + 2;
      return;
    }
    if (in_[at_] == '[') refuse("a class within a class");
    if (in_[at_] != '\\') {
      return copy(static_cast<unsigned char>(in_[at_]) < 0x80 ? 1 : code_point_at(in_, at_).length);
    }
    if (at_ + 1 >= in_.size()) refuse("a backslash at the end");
    const char c = in_[at_ + 1];
    const std::size_t start = at_;
    const std::string members = class_escape(c);
    if (members.empty()) {
      if (c == 'b') return copy(2);
      return plain_escape(c);
    }
    out_ += negated_ ? negated_in_class(c, start) : members;
  }

  // A class cannot take members away, so complements are named outright.
  std::string negated_in_class(char c, std::size_t start) {
    if (c == 'S') return "\\S\\x{180e}";  // PCRE2's \S and what its \s has too much
    if (c == 'H') return "\\x{0}-\\x{2f}\\x{3a}-\\x{40}\\x{47}-\\x{60}\\x{67}-\\x{10ffff}";
    at_ = start;
    refuse(fmt::format("the complement \\{} within a class", c));
  }

  std::string_view in_;
  std::size_t at_ = 0;
  std::string out_;
  std::vector<std::size_t> groups_;  // where the open groups begin in out_
  std::size_t atom_ = 0;             // where what a quantifier repeats begins in out_
  bool negated_ = false;
};

}  // namespace

std::string translate_oniguruma(std::string_view pattern) {
  if (find_invalid_utf8(pattern) != pattern.size()) throw std::invalid_argument("the pattern is not valid UTF-8");
  return Translator(pattern).run();
}

}  // namespace qlora
