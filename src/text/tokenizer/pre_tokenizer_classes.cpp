// Digits, Punctuation, WhitespaceSplit, Whitespace: splits by classes of characters.
#include <fmt/format.h>

#include "qlora/text/tokenizer/pre_tokenizer.h"
#include "qlora/text/tokenizer/unicode.h"

namespace qlora {
namespace {

class ClassSplit final : public PreTokenizer {
 public:
  ClassSplit(bool (*is_member)(char32_t), SplitBehavior behavior) : is_member_(is_member), behavior_(behavior) {}
  void apply(PreTokenized& text) const override {
    cut_pieces(text, [&](std::string_view piece, std::uint32_t offset, std::vector<TextPiece>& out) {
      append_pieces(split_by_class(is_member_, piece), behavior_, offset, out);
    });
  }

 private:
  bool (*is_member_)(char32_t);
  SplitBehavior behavior_;
};

class Whitespace final : public PreTokenizer {
 public:
  void apply(PreTokenized& text) const override {
    cut_pieces(text, [&](std::string_view piece, std::uint32_t offset, std::vector<TextPiece>& out) {
      words_.for_each_match(piece, [&](ByteSpan match) {
        out.push_back(
            {offset + static_cast<std::uint32_t>(match.begin), offset + static_cast<std::uint32_t>(match.end), -1});
      });
    });
  }

 private:
  Regex words_{fmt::format("[{0}]+|[^{0}\\s]+", kRustWordMembers)};
};

}  // namespace

std::unique_ptr<PreTokenizer> make_digits(const JsonNode& node) {
  const bool single = node.at("individual_digits").flag();
  return std::make_unique<ClassSplit>(is_numeric, single ? SplitBehavior::kIsolated : SplitBehavior::kContiguous);
}

std::unique_ptr<PreTokenizer> make_punctuation(const JsonNode& node) {
  const auto behavior = node.find("behavior");
  return std::make_unique<ClassSplit>(is_split_punctuation,
                                      behavior ? read_split_behavior(*behavior) : SplitBehavior::kIsolated);
}

std::unique_ptr<PreTokenizer> make_whitespace_split(const JsonNode&) {
  return std::make_unique<ClassSplit>(is_white_space, SplitBehavior::kRemoved);
}

std::unique_ptr<PreTokenizer> make_whitespace(const JsonNode&) {
  return std::make_unique<Whitespace>();
}

}  // namespace qlora
