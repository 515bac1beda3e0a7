#include "qlora/text/tokenizer/aligned_text.h"

#include <algorithm>

#include "qlora/text/tokenizer/unicode.h"

namespace qlora {
namespace {

// The input's position for a byte that no change covers; `after` is the number of changes before it.
std::size_t in_step(const std::vector<TextChange>& changes, std::size_t base, std::size_t after, std::size_t position) {
  if (after == 0) return base + position;
  return changes[after - 1].origin.end + (position - changes[after - 1].end);
}

std::size_t first_ending_after(const std::vector<TextChange>& changes, std::size_t position) {
  const auto found = std::upper_bound(changes.begin(), changes.end(), position,
                                      [](std::size_t at, const TextChange& change) { return at < change.end; });
  return static_cast<std::size_t>(found - changes.begin());
}

// `index` is the first change that ends after `begin`.
ByteSpan origin_from(const std::vector<TextChange>& changes, std::size_t base, std::size_t index, std::size_t begin,
                     std::size_t end) {
  ByteSpan span;
  const bool inside = index < changes.size() && changes[index].begin <= begin;
  span.begin = inside ? changes[index].origin.begin : in_step(changes, base, index, begin);
  if (end <= begin) return {span.begin, span.begin};
  while (index < changes.size() && changes[index].end < end) ++index;
  const bool ends_inside = index < changes.size() && changes[index].begin < end;
  span.end = ends_inside ? changes[index].origin.end : in_step(changes, base, index, end - 1) + 1;
  return span;
}

}  // namespace

ByteSpan AlignedText::origin(std::size_t begin, std::size_t end) const {
  if (changes_.empty()) return {base_ + begin, base_ + std::max(begin, end)};
  return origin_from(changes_, base_, first_ending_after(changes_, begin), begin, end);
}

ByteSpan OriginCursor::origin(std::size_t begin, std::size_t end) {
  if (text_.changes_.empty()) return {text_.base_ + begin, text_.base_ + std::max(begin, end)};
  while (index_ < text_.changes_.size() && text_.changes_[index_].end <= begin) ++index_;
  return origin_from(text_.changes_, text_.base_, index_, begin, end);
}

void TextRewriter::keep(std::size_t end) {
  const std::vector<TextChange>& changes = source_.changes();
  while (next_change_ < changes.size() && changes[next_change_].begin < end) {
    const TextChange& change = changes[next_change_];
    const std::size_t shift = bytes_.size() - position_;  // modulo 2^64: a shorter copy shifts back
    changes_.push_back({std::max(change.begin, position_) + shift, std::min(change.end, end) + shift, change.origin});
    if (change.end > end) break;  // cut here; its rest comes with the next call
    ++next_change_;
  }
  bytes_.append(source_.bytes().substr(position_, end - position_));
  position_ = end;
}

void TextRewriter::replace(std::size_t end, std::string_view content) {
  changed_ = true;
  const ByteSpan origin = source_.origin(position_, end);
  changes_.push_back({bytes_.size(), bytes_.size() + content.size(), origin});
  bytes_.append(content);
  while (next_change_ < source_.changes().size() && source_.changes()[next_change_].end <= end) ++next_change_;
  position_ = end;
}

AlignedText TextRewriter::finish() {
  keep(source_.bytes().size());
  return AlignedText(std::move(bytes_), source_.base(), std::move(changes_));
}

AlignedText mend_utf8(std::string_view text) {
  const AlignedText source(text);
  std::size_t bad = find_invalid_utf8(text);
  if (bad == text.size()) return source;
  TextRewriter rewriter(source);
  for (; bad < text.size(); bad = find_invalid_utf8(text, rewriter.position())) {
    rewriter.keep(bad);
    rewriter.replace(bad + invalid_utf8_length(text, bad), "\xEF\xBF\xBD");
  }
  return rewriter.finish();
}

}  // namespace qlora
