// Metaspace: spaces become a visible mark, and each word starts with one.
#include <fmt/format.h>

#include "qlora/text/tokenizer/pre_tokenizer.h"
#include "qlora/text/tokenizer/unicode.h"

namespace qlora {
namespace {

enum class PrependScheme { kFirst, kNever, kAlways };

PrependScheme read_scheme(const JsonNode& node) {
  const std::string scheme = node.text_or("prepend_scheme", "always");
  PrependScheme out = PrependScheme::kAlways;
  if (scheme == "first") {
    out = PrependScheme::kFirst;
  } else if (scheme == "never") {
    out = PrependScheme::kNever;
  } else if (scheme != "always") {
    node.at("prepend_scheme").fail(fmt::format("\"{}\" is none of first, never, always", scheme));
  }
  if (!node.flag_or("add_prefix_space", true)) {
    if (out != PrependScheme::kNever && node.find("prepend_scheme")) {
      node.at("add_prefix_space").fail("false contradicts prepend_scheme");
    }
    out = PrependScheme::kNever;
  }
  return out;
}

class Metaspace final : public PreTokenizer {
 public:
  explicit Metaspace(const JsonNode& node) : scheme_(read_scheme(node)), split_(node.flag_or("split", true)) {
    append_utf8(mark_, node.at("replacement").character());
  }

  void apply(PreTokenized& text) const override {
    rewrite_pieces(text, [&](const TextPiece& piece, TextRewriter& out) { mark_spaces(text.text, piece, out); });
    if (!split_) return;
    cut_pieces(text, [&](std::string_view piece, std::uint32_t offset, std::vector<TextPiece>& out) {
      append_pieces(marks_in(piece), SplitBehavior::kMergedWithNext, offset, out);
    });
  }

 private:
  void mark_spaces(const AlignedText& text, const TextPiece& piece, TextRewriter& out) const {
    const std::string_view bytes = text.bytes().substr(0, piece.end);
    const std::uint32_t first = code_point_at(bytes, piece.begin).length;
    const std::string_view start = bytes.substr(piece.begin, first);
    const bool wanted = scheme_ == PrependScheme::kAlways ||
                        (scheme_ == PrependScheme::kFirst && text.origin(piece.begin, piece.begin).begin == 0);
    if (wanted && start != " " && start != mark_) out.replace(piece.begin + first, mark_ + std::string(start));
    for (std::size_t at = bytes.find(' ', piece.begin); at != std::string_view::npos; at = bytes.find(' ', at + 1)) {
      out.keep(at);
      out.replace(at + 1, mark_);
    }
  }

  std::vector<SplitSpan> marks_in(std::string_view piece) const {
    std::vector<SplitSpan> spans;
    std::size_t last = 0;
    for (std::size_t at = piece.find(mark_); at != std::string_view::npos; at = piece.find(mark_, last)) {
      if (at != last) spans.push_back({last, at, false});
      last = at + mark_.size();
      spans.push_back({at, last, true});
    }
    if (last != piece.size()) spans.push_back({last, piece.size(), false});
    return spans;
  }

  std::string mark_;
  PrependScheme scheme_;
  bool split_;
};

}  // namespace

std::unique_ptr<PreTokenizer> make_metaspace(const JsonNode& node) {
  return std::make_unique<Metaspace>(node);
}

}  // namespace qlora
