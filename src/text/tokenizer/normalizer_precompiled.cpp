// Precompiled: the map of characters that a SentencePiece model carries.
#include <algorithm>
#include <array>

#include <fmt/format.h>
#include <utf8proc.h>

#include "qlora/text/tokenizer/base64.h"
#include "qlora/text/tokenizer/normalizer.h"
#include "qlora/text/tokenizer/unicode.h"

namespace qlora {
namespace {

constexpr std::size_t kMaxReplacementBytes = 1024;  // a character's NFKC form has 18 code points at most
constexpr std::size_t kMaxClusterBytes = 5;         // longer grapheme clusters are mapped character by character

// A character that utf8proc treats as the reference, which knows Unicode 17, treats `value` in clusters.
utf8proc_int32_t cluster_twin(char32_t value) {
  struct Range {
    char32_t first, last;
  };
  static constexpr Range kRecentMarks[] = {
      {0x897, 0x897},     {0x1ACF, 0x1ADD},   {0x1AE0, 0x1AEB},   {0x10D69, 0x10D6D}, {0x10EFA, 0x10EFC},
      {0x113B8, 0x113C0}, {0x113C2, 0x113C2}, {0x113C5, 0x113C5}, {0x113C7, 0x113CA}, {0x113CC, 0x113D0},
      {0x113D2, 0x113D2}, {0x113E1, 0x113E2}, {0x11B60, 0x11B67}, {0x11F5A, 0x11F5A}, {0x1611E, 0x1612F},
      {0x1E5EE, 0x1E5EF}, {0x1E6E3, 0x1E6E3}, {0x1E6E6, 0x1E6E6}, {0x1E6EE, 0x1E6EF}, {0x1E6F5, 0x1E6F5}};
  if (value == 0x113D1) return 0x600;  // joins what follows, since Unicode 16
  if (value == 0x11A3A) return 'a';    // does so no more
  const bool mark = std::any_of(std::begin(kRecentMarks), std::end(kRecentMarks),
                                [&](const Range& range) { return value >= range.first && value <= range.last; });
  return mark ? 0x301 : static_cast<utf8proc_int32_t>(value);
}

std::uint32_t read_u32(std::string_view bytes, std::size_t at) {
  std::uint32_t value = 0;
  for (std::size_t i = 4; i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes[at + i]);
  return value;
}

// A double-array trie of texts (the layout of Darts-clone) with offsets into a block of replacements, each ended by
// a zero byte: u32 bytes of the trie, its u32 units, the block, all little-endian.
class CharacterMap {
 public:
  explicit CharacterMap(const JsonNode& node) {
    const auto bytes = decode_base64(node.text());
    if (!bytes) node.fail("is no base64");
    if (bytes->size() < 4 || read_u32(*bytes, 0) > bytes->size() - 4) node.fail("is too short for its trie");
    const std::size_t units = read_u32(*bytes, 0) / 4;
    for (std::size_t i = 0; i < units; ++i) units_.push_back(read_u32(*bytes, 4 + 4 * i));
    replacements_ = bytes->substr(4 + 4 * units);
    if (find_invalid_utf8(replacements_) != replacements_.size()) node.fail("its replacements are no UTF-8");
    for (std::size_t begin = 0; begin < replacements_.size();) {
      const std::size_t end = std::min(replacements_.find('\0', begin), replacements_.size());
      if (end - begin > kMaxReplacementBytes)
        node.fail(fmt::format("has a replacement of more than {} bytes", kMaxReplacementBytes));
      begin = end + 1;
    }
  }

  // What stands in place of a whole text: the replacement of the shortest entry that it starts with, as the reference
  // has it. None where no entry fits, or the trie leads out of itself.
  std::optional<std::string_view> find(std::string_view text) const {
    if (units_.empty()) return std::nullopt;
    std::size_t at = offset_of(units_[0]);
    for (const char c : text) {
      const auto byte = static_cast<unsigned char>(c);
      at ^= byte;
      if (byte == 0 || at >= units_.size()) return std::nullopt;
      const std::uint32_t unit = units_[at];
      if ((unit & 0x800000FFU) != byte) return std::nullopt;
      at ^= offset_of(unit);
      if ((unit >> 8 & 1U) != 0) return at < units_.size() ? replacement_at(units_[at] & 0x7FFFFFFFU) : std::nullopt;
    }
    return std::nullopt;
  }

 private:
  static std::size_t offset_of(std::uint32_t unit) {
    return static_cast<std::size_t>(unit >> 10) << ((unit & (1U << 9)) >> 6);
  }
  std::optional<std::string_view> replacement_at(std::size_t begin) const {
    const std::string_view all = replacements_;
    if (begin > all.size()) return std::nullopt;
    const std::string_view text = all.substr(begin, all.find('\0', begin) - begin);
    return find_invalid_utf8(text) == text.size() ? std::optional(text) : std::nullopt;
  }

  std::vector<std::uint32_t> units_;
  std::string replacements_;
};

class Precompiled final : public Normalizer {
 public:
  explicit Precompiled(const JsonNode& node) : map_(node.at("precompiled_charsmap")) {
    for (std::size_t i = 0; i < 127; ++i) {
      const char c = static_cast<char>(i);
      plain_[i] = c != '\r' && !map_.find({&c, 1});
    }
  }

  void apply(AlignedText& text) const override {
    const std::string_view bytes = text.bytes();
    TextRewriter rewriter(text);
    const auto map = [&](std::size_t begin, std::size_t end) {
      const auto made = map_.find(bytes.substr(begin, end - begin));
      if (!made) return false;
      rewriter.keep(begin);
      rewriter.replace(end, *made);
      return true;
    };
    for (std::size_t at = 0; at < bytes.size();) {
      if (is_plain(bytes, at)) {
        ++at;
        continue;
      }
      const std::size_t end = cluster_end(bytes, at);
      if (end - at <= kMaxClusterBytes && map(at, end)) at = end;
      while (at < end) {
        const std::size_t next = at + code_point_at(bytes, at).length;
        map(at, next);
        at = next;
      }
    }
    if (rewriter.changed()) text = rewriter.finish();
  }

 private:
  // An ASCII character that is a cluster of its own and stays.
  bool is_plain(std::string_view bytes, std::size_t at) const {
    const auto is_ascii = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]) < 0x80; };
    return is_ascii(at) && plain_[static_cast<unsigned char>(bytes[at])] &&
           (at + 1 == bytes.size() || is_ascii(at + 1));
  }

  // End of the extended grapheme cluster (UAX 29) that starts at `at`.
  static std::size_t cluster_end(std::string_view bytes, std::size_t at) {
    utf8proc_int32_t state = 0;
    const CodePoint first = code_point_at(bytes, at);
    utf8proc_int32_t last = cluster_twin(first.value);
    for (at += first.length; at < bytes.size();) {
      const CodePoint point = code_point_at(bytes, at);
      const utf8proc_int32_t next = cluster_twin(point.value);
      if (utf8proc_grapheme_break_stateful(last, next, &state)) break;
      at += point.length;
      last = next;
    }
    return at;
  }

  CharacterMap map_;
  std::array<bool, 128> plain_{};
};

}  // namespace

std::unique_ptr<Normalizer> make_precompiled(const JsonNode& node) {
  return std::make_unique<Precompiled>(node);
}

}  // namespace qlora
