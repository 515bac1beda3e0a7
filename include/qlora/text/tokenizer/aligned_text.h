// Text that remembers, through every change, which bytes of the input each of its bytes came from.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "qlora/text/tokenizer.h"

namespace qlora {

// A changed stretch: bytes [begin, end) of the text stand for bytes [origin.begin, origin.end) of the input. Between
// changes text and input run in step, byte by byte.
struct TextChange {
  std::size_t begin = 0;
  std::size_t end = 0;
  ByteSpan origin;
};

class AlignedText {
 public:
  // Views `bytes`, which stand at `origin` of the input; the caller keeps them alive.
  explicit AlignedText(std::string_view bytes, std::size_t origin = 0) : view_(bytes), base_(origin) {}
  AlignedText(std::string bytes, std::size_t origin, std::vector<TextChange> changes)
      : owned_(std::move(bytes)), owns_(true), base_(origin), changes_(std::move(changes)) {}

  std::string_view bytes() const { return owns_ ? std::string_view(owned_) : view_; }
  bool empty() const { return bytes().empty(); }
  const std::vector<TextChange>& changes() const { return changes_; }
  std::size_t base() const { return base_; }

  // The bytes of the input that bytes [begin, end) stand for; a change counts whole.
  ByteSpan origin(std::size_t begin, std::size_t end) const;

 private:
  friend class OriginCursor;
  std::string owned_;
  std::string_view view_;
  bool owns_ = false;
  std::size_t base_ = 0;
  std::vector<TextChange> changes_;
};

// AlignedText::origin for ranges in ascending order, in amortised constant time.
class OriginCursor {
 public:
  explicit OriginCursor(const AlignedText& text) : text_(text) {}
  ByteSpan origin(std::size_t begin, std::size_t end);

 private:
  const AlignedText& text_;
  std::size_t index_ = 0;  // the first change that ends after the last `begin`
};

// Writes a changed copy of a text from left to right.
class TextRewriter {
 public:
  explicit TextRewriter(const AlignedText& source) : source_(source) {}

  std::size_t position() const { return position_; }
  void keep(std::size_t end);                               // copies source bytes [position, end)
  void replace(std::size_t end, std::string_view content);  // writes `content` in place of [position, end)
  bool changed() const { return changed_; }
  std::size_t written() const { return bytes_.size(); }
  AlignedText finish();  // keeps the rest

 private:
  const AlignedText& source_;
  std::size_t position_ = 0;
  std::size_t next_change_ = 0;
  bool changed_ = false;
  std::string bytes_;
  std::vector<TextChange> changes_;
};

// `text` with U+FFFD for every ill-formed UTF-8 sequence; views `text` where there is none.
AlignedText mend_utf8(std::string_view text);

}  // namespace qlora
