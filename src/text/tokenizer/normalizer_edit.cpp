// Prepend, Replace, Strip, Lowercase.
#include <stdexcept>

#include <utf8proc.h>

#include "qlora/text/tokenizer/normalizer.h"
#include "qlora/text/tokenizer/pattern_field.h"
#include "qlora/text/tokenizer/unicode.h"

namespace qlora {
namespace {

class Prepend final : public Normalizer {
 public:
  explicit Prepend(const JsonNode& node) : prefix_(node.at("prepend").text()) {}
  void apply(AlignedText& text) const override {
    if (text.empty() || prefix_.empty()) return;
    // The prefix stands for the first character, so that no token is without bytes of its own.
    const std::uint32_t first = code_point_at(text.bytes(), 0).length;
    TextRewriter rewriter(text);
    rewriter.replace(first, prefix_ + std::string(text.bytes().substr(0, first)));
    text = rewriter.finish();
  }

 private:
  std::string prefix_;
};

class Replace final : public Normalizer {
 public:
  explicit Replace(const JsonNode& node) : pattern_(node.at("pattern")), content_(node.at("content").text()) {}
  void apply(AlignedText& text) const override {
    TextRewriter rewriter(text);
    pattern_.for_each_match(text.bytes(), [&](ByteSpan match) {
      rewriter.keep(match.begin);
      rewriter.replace(match.end, content_);
    });
    if (rewriter.changed()) text = rewriter.finish();
  }

 private:
  PatternField pattern_;
  std::string content_;
};

class Strip final : public Normalizer {
 public:
  explicit Strip(const JsonNode& node) : left_(node.at("strip_left").flag()), right_(node.at("strip_right").flag()) {}
  void apply(AlignedText& text) const override {
    const std::string_view bytes = text.bytes();
    std::size_t begin = 0, end = 0;
    bool blank = true;
    for (std::size_t at = 0; at < bytes.size();) {
      const CodePoint point = code_point_at(bytes, at);
      if (!is_white_space(point.value)) {
        if (blank) begin = at;
        blank = false;
        end = at + point.length;
      }
      at += point.length;
    }
    if (blank) begin = end = left_ ? bytes.size() : 0;
    if (!left_) begin = 0;
    if (!right_) end = bytes.size();
    if (begin == 0 && end == bytes.size()) return;
    TextRewriter rewriter(text);
    rewriter.replace(begin, "");
    rewriter.keep(end);
    rewriter.replace(bytes.size(), "");
    text = rewriter.finish();
  }

 private:
  bool left_, right_;
};

// The reference knows Unicode 17, utf8proc less.
char32_t lower_case(char32_t value) {
  struct Shift {
    char32_t first, last, lower;
  };
  static constexpr Shift kLater[] = {
      {0x1C89, 0x1C89, 0x1C8A},    {0x2C2F, 0x2C2F, 0x2C5F},    {0xA7C0, 0xA7C0, 0xA7C1},
      {0xA7CB, 0xA7CB, 0x264},     {0xA7CC, 0xA7CC, 0xA7CD},    {0xA7CE, 0xA7CE, 0xA7CF},
      {0xA7D0, 0xA7D0, 0xA7D1},    {0xA7D2, 0xA7D2, 0xA7D3},    {0xA7D4, 0xA7D4, 0xA7D5},
      {0xA7D6, 0xA7D6, 0xA7D7},    {0xA7D8, 0xA7D8, 0xA7D9},    {0xA7DA, 0xA7DA, 0xA7DB},
      {0xA7DC, 0xA7DC, 0x19B},     {0x10570, 0x1057A, 0x10597}, {0x1057C, 0x1058A, 0x105A3},
      {0x1058C, 0x10592, 0x105B3}, {0x10594, 0x10595, 0x105BB}, {0x10D50, 0x10D65, 0x10D70},
      {0x16EA0, 0x16EB8, 0x16EBB}};
  for (const Shift& shift : kLater) {
    if (value >= shift.first && value <= shift.last) return shift.lower + (value - shift.first);
  }
  return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(value)));
}

class Lowercase final : public Normalizer {
 public:
  void apply(AlignedText& text) const override {
    TextRewriter rewriter(text);
    const std::string_view bytes = text.bytes();
    for (std::size_t at = 0; at < bytes.size();) {
      const CodePoint point = code_point_at(bytes, at);
      const std::string lower = lowered(point.value);
      if (lower != bytes.substr(at, point.length)) {
        rewriter.keep(at);
        rewriter.replace(at + point.length, lower);
      }
      at += point.length;
    }
    if (rewriter.changed()) text = rewriter.finish();
  }

 private:
  static std::string lowered(char32_t value) {
    std::string out;
    append_utf8(out, value == 0x130 ? U'i' : lower_case(value));
    if (value == 0x130) append_utf8(out, 0x307);  // the one character whose lower case is two
    return out;
  }
};

}  // namespace

std::unique_ptr<Normalizer> make_prepend(const JsonNode& node) {
  return std::make_unique<Prepend>(node);
}
std::unique_ptr<Normalizer> make_replace(const JsonNode& node) {
  return std::make_unique<Replace>(node);
}
std::unique_ptr<Normalizer> make_strip(const JsonNode& node) {
  return std::make_unique<Strip>(node);
}
std::unique_ptr<Normalizer> make_lowercase(const JsonNode&) {
  return std::make_unique<Lowercase>();
}

}  // namespace qlora
