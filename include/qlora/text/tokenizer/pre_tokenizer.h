// The field "pre_tokenizer" of tokenizer.json: cuts a text into the pieces that the model works on.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "qlora/text/tokenizer/aligned_text.h"
#include "qlora/text/tokenizer/json_node.h"
#include "qlora/text/tokenizer/regex.h"

namespace qlora {

// Bytes [begin, end) of the text; an id >= 0 says that it is this token already.
struct TextPiece {
  std::uint32_t begin = 0;
  std::uint32_t end = 0;
  std::int32_t id = -1;
};

struct PreTokenized {
  AlignedText text;
  std::vector<TextPiece> pieces;  // in order, not empty ones
};

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void apply(PreTokenized& text) const = 0;

  // Asks the last stage to leave out its mapping of bytes to printable characters, since the model will read raw bytes.
  // True where there was such a stage and it now does so.
  virtual bool leave_raw_bytes() { return false; }
};

std::unique_ptr<PreTokenizer> make_pre_tokenizer(const JsonNode& node);

// Factories, one a kind; the table in pre_tokenizer.cpp names them.
std::unique_ptr<PreTokenizer> make_byte_level(const JsonNode& node);
std::unique_ptr<PreTokenizer> make_split(const JsonNode& node);
std::unique_ptr<PreTokenizer> make_metaspace(const JsonNode& node);
std::unique_ptr<PreTokenizer> make_digits(const JsonNode& node);
std::unique_ptr<PreTokenizer> make_punctuation(const JsonNode& node);
std::unique_ptr<PreTokenizer> make_whitespace(const JsonNode& node);
std::unique_ptr<PreTokenizer> make_whitespace_split(const JsonNode& node);

// What becomes of the matches of a splitting pattern.
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };
SplitBehavior read_split_behavior(const JsonNode& node);

// A stretch between or of matches; the stretches of a text cover it whole.
struct SplitSpan {
  std::size_t begin = 0;
  std::size_t end = 0;
  bool match = false;
};
std::vector<SplitSpan> split_by_regex(const Regex& regex, std::string_view text);
std::vector<SplitSpan> split_by_class(bool (*is_member)(char32_t), std::string_view text);

// Appends the pieces that `behavior` makes of `spans` of a text that starts at `offset`; empty pieces vanish.
void append_pieces(std::vector<SplitSpan> spans, SplitBehavior behavior, std::uint32_t offset,
                   std::vector<TextPiece>& out);

// Splits every piece that is no token yet: `cut(text of the piece, its offset, out)`.
void cut_pieces(PreTokenized& text,
                const std::function<void(std::string_view, std::uint32_t, std::vector<TextPiece>&)>& cut);

// Edits every piece that is no token yet: `edit` moves the rewriter from the piece's begin to its end.
void rewrite_pieces(PreTokenized& text, const std::function<void(const TextPiece&, TextRewriter&)>& edit);

}  // namespace qlora
