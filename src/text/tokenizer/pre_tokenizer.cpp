// The table of pre-tokenizers, Sequence, and what they share.
#include "qlora/text/tokenizer/pre_tokenizer.h"

#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "qlora/text/tokenizer/unicode.h"

namespace qlora {
namespace {

class PreTokenizerSequence final : public PreTokenizer {
 public:
  explicit PreTokenizerSequence(const JsonNode& node) {
    for (const JsonNode& part : node.at("pretokenizers").items()) parts_.push_back(make_pre_tokenizer(part));
  }
  void apply(PreTokenized& text) const override {
    for (const auto& part : parts_) part->apply(text);
  }
  bool leave_raw_bytes() override { return !parts_.empty() && parts_.back()->leave_raw_bytes(); }

 private:
  std::vector<std::unique_ptr<PreTokenizer>> parts_;
};

std::unique_ptr<PreTokenizer> make_sequence(const JsonNode& node) {
  return std::make_unique<PreTokenizerSequence>(node);
}

using Factory = std::unique_ptr<PreTokenizer> (*)(const JsonNode&);
const std::map<std::string, Factory> kPreTokenizers = {
    {"Sequence", make_sequence},     {"ByteLevel", make_byte_level},
    {"Split", make_split},           {"Metaspace", make_metaspace},
    {"Digits", make_digits},         {"Punctuation", make_punctuation},
    {"Whitespace", make_whitespace}, {"WhitespaceSplit", make_whitespace_split},
};

// Neighbours of one kind become one stretch, as the reference's Contiguous has it.
std::vector<SplitSpan> join_contiguous(const std::vector<SplitSpan>& spans) {
  std::vector<SplitSpan> out;
  bool previous = false;
  for (const SplitSpan& span : spans) {
    if (span.match == previous && !out.empty()) {
      out.back().end = span.end;
    } else {
      out.push_back(span);
    }
    previous = span.match;
  }
  return out;
}

std::vector<SplitSpan> join_with_previous(const std::vector<SplitSpan>& spans) {
  std::vector<SplitSpan> out;
  bool previous = false;
  for (const SplitSpan& span : spans) {
    if (span.match && !previous && !out.empty()) {
      out.back().end = span.end;
    } else {
      out.push_back(span);
    }
    previous = span.match;
  }
  return out;
}

std::vector<SplitSpan> join_with_next(const std::vector<SplitSpan>& spans) {
  std::vector<SplitSpan> out;
  bool previous = false;
  for (const SplitSpan& span : std::vector<SplitSpan>(spans.rbegin(), spans.rend())) {
    if (span.match && !previous && !out.empty()) {
      out.back().begin = span.begin;
    } else {
      out.push_back(span);
    }
    previous = span.match;
  }
  std::reverse(out.begin(), out.end());
  return out;
}

}  // namespace

std::unique_ptr<PreTokenizer> make_pre_tokenizer(const JsonNode& node) {
  return make_by_type(node, node.type(), "pre-tokenizer", kPreTokenizers);
}

SplitBehavior read_split_behavior(const JsonNode& node) {
  static const std::map<std::string, SplitBehavior> kBehaviors = {
      {"Removed", SplitBehavior::kRemoved},
      {"Isolated", SplitBehavior::kIsolated},
      {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
      {"MergedWithNext", SplitBehavior::kMergedWithNext},
      {"Contiguous", SplitBehavior::kContiguous}};
  const auto found = kBehaviors.find(node.text());
  if (found == kBehaviors.end()) {
    node.fail(fmt::format("\"{}\" is none of Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous",
                          node.text()));
  }
  return found->second;
}

std::vector<SplitSpan> split_by_regex(const Regex& regex, std::string_view text) {
  std::vector<SplitSpan> spans;
  std::size_t last = 0;
  regex.for_each_match(text, [&](ByteSpan match) {
    if (match.begin != last) spans.push_back({last, match.begin, false});
    spans.push_back({match.begin, match.end, true});
    last = match.end;
  });
  if (last != text.size()) spans.push_back({last, text.size(), false});
  return spans;
}

std::vector<SplitSpan> split_by_class(bool (*is_member)(char32_t), std::string_view text) {
  std::vector<SplitSpan> spans;
  std::size_t last = 0;
  for (std::size_t at = 0; at < text.size();) {
    const CodePoint point = code_point_at(text, at);
    const std::size_t end = at + point.length;
    if (is_member(point.value)) {
      if (last != at) spans.push_back({last, at, false});
      spans.push_back({at, end, true});
      last = end;
    }
    at = end;
  }
  if (last != text.size()) spans.push_back({last, text.size(), false});
  return spans;
}

void append_pieces(std::vector<SplitSpan> spans, SplitBehavior behavior, std::uint32_t offset,
                   std::vector<TextPiece>& out) {
  if (behavior == SplitBehavior::kContiguous) spans = join_contiguous(spans);
  if (behavior == SplitBehavior::kMergedWithPrevious) spans = join_with_previous(spans);
  if (behavior == SplitBehavior::kMergedWithNext) spans = join_with_next(spans);
  for (const SplitSpan& span : spans) {
    if (span.begin == span.end || (behavior == SplitBehavior::kRemoved && span.match)) continue;
    out.push_back({offset + static_cast<std::uint32_t>(span.begin), offset + static_cast<std::uint32_t>(span.end), -1});
  }
}

void cut_pieces(PreTokenized& text,
                const std::function<void(std::string_view, std::uint32_t, std::vector<TextPiece>&)>& cut) {
  std::vector<TextPiece> cut_up;
  for (const TextPiece& piece : text.pieces) {
    if (piece.id >= 0) {
      cut_up.push_back(piece);
    } else {
      cut(text.text.bytes().substr(piece.begin, piece.end - piece.begin), piece.begin, cut_up);
    }
  }
  text.pieces = std::move(cut_up);
}

void rewrite_pieces(PreTokenized& text, const std::function<void(const TextPiece&, TextRewriter&)>& edit) {
  TextRewriter rewriter(text.text);
  for (TextPiece& piece : text.pieces) {
    rewriter.keep(piece.begin);
    const std::size_t begin = rewriter.written();
    if (piece.id < 0) edit(piece, rewriter);
    rewriter.keep(piece.end);
    piece.begin = static_cast<std::uint32_t>(begin);
    piece.end = static_cast<std::uint32_t>(rewriter.written());
  }
  text.text = rewriter.finish();
}

}  // namespace qlora
