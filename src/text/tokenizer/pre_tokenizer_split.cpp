// Split: by a text or a regular expression, the known ones through their scanners.
#include "qlora/text/tokenizer/pattern_field.h"
#include "qlora/text/tokenizer/pre_tokenizer.h"
#include "qlora/text/tokenizer/split_pattern.h"

namespace qlora {
namespace {

class Split final : public PreTokenizer {
 public:
  explicit Split(const JsonNode& node)
      : pattern_(node.at("pattern")),
        behavior_(read_split_behavior(node.at("behavior"))),
        invert_(node.at("invert").flag()) {
    const auto& source = pattern_.regex_source();
    const bool whole = !invert_ && behavior_ == SplitBehavior::kIsolated;
    if (source && whole) known_ = find_known_pattern(*source);
  }

  void apply(PreTokenized& text) const override {
    cut_pieces(text, [&](std::string_view piece, std::uint32_t offset, std::vector<TextPiece>& out) {
      if (known_) return scan_known_pattern(*known_, piece, offset, out);
      std::vector<SplitSpan> spans = split_by_regex(pattern_.regex(), piece);
      for (SplitSpan& span : spans) span.match = span.match != invert_;
      append_pieces(std::move(spans), behavior_, offset, out);
    });
  }

 private:
  PatternField pattern_;
  SplitBehavior behavior_;
  bool invert_;
  std::optional<KnownPattern> known_;
};

}  // namespace

std::unique_ptr<PreTokenizer> make_split(const JsonNode& node) {
  return std::make_unique<Split>(node);
}

}  // namespace qlora
