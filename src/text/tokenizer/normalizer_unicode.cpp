// NFC, NFD, NFKC, NFKD through utf8proc, on the stretches that can change alone.
#include <algorithm>
#include <array>
#include <map>

#include <utf8proc.h>

#include "qlora/text/tokenizer/normalizer.h"
#include "qlora/text/tokenizer/unicode.h"

namespace qlora {
namespace {

constexpr char32_t kTableEnd = 0x40000;  // characters above neither decompose nor combine

// What the reference's normalization, which knows Unicode 9, leaves alone: characters that utf8proc decomposes,
// composes or orders.
bool is_inert(char32_t value) {
  struct Range {
    char32_t first, last;
  };
  static constexpr Range kLater[] = {
      {0x7FD, 0x7FD},     {0x898, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},     {0xC3C, 0xC3C},
      {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x1715, 0x1715},   {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},
      {0x32FF, 0x32FF},   {0xA7F2, 0xA7F4},   {0xA82C, 0xA82C},   {0xAB69, 0xAB69},   {0x10781, 0x107BA},
      {0x10D24, 0x10D27}, {0x10EAB, 0x10EAC}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85}, {0x11070, 0x11070},
      {0x1133B, 0x1133B}, {0x1145E, 0x1145E}, {0x11839, 0x1183A}, {0x11938, 0x11938}, {0x1193D, 0x1193E},
      {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99},
      {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97}, {0x16FF0, 0x16FF1}, {0x1E130, 0x1E136},
      {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF}, {0x897, 0x897},     {0x105C9, 0x105E4}, {0x10D69, 0x10D6D},
      {0x10EFC, 0x10EFF}, {0x11383, 0x113E2}, {0x11F41, 0x11F42}, {0x16121, 0x1612F}, {0x16D68, 0x16D6A},
      {0x1CCD6, 0x1CCF9}, {0x1E030, 0x1E06D}, {0x1E08F, 0x1E08F}, {0x1E4EC, 0x1E4EF}, {0x1E5EE, 0x1E5EF},
      {0x1F16C, 0x1F16C}, {0x1FBF0, 0x1FBF9}};
  return std::any_of(std::begin(kLater), std::end(kLater),
                     [&](const Range& range) { return value >= range.first && value <= range.last; });
}

// Canonical ordering: within a run of characters of combining class > 0, by class, stable.
void order_marks(std::vector<utf8proc_int32_t>& points) {
  const auto rank = [](utf8proc_int32_t point) { return utf8proc_get_property(point)->combining_class; };
  for (auto run = points.begin(); run != points.end();) {
    run = std::find_if(run, points.end(), [&](utf8proc_int32_t point) { return rank(point) != 0; });
    const auto end = std::find_if(run, points.end(), [&](utf8proc_int32_t point) { return rank(point) == 0; });
    std::stable_sort(run, end, [&](utf8proc_int32_t a, utf8proc_int32_t b) { return rank(a) < rank(b); });
    run = end;
  }
}

std::vector<utf8proc_int32_t> normalized(const std::vector<utf8proc_int32_t>& points, utf8proc_option_t options) {
  std::vector<utf8proc_int32_t> out;
  std::array<utf8proc_int32_t, 32> buffer;
  int boundary = 0;
  for (utf8proc_int32_t point : points) {
    const auto count = utf8proc_decompose_char(point, buffer.data(), buffer.size(), options, &boundary);
    out.insert(out.end(), buffer.begin(), buffer.begin() + count);
  }
  order_marks(out);
  const auto length = utf8proc_normalize_utf32(out.data(), static_cast<utf8proc_ssize_t>(out.size()), options);
  out.resize(static_cast<std::size_t>(length));
  return out;
}

// Whether a character, wherever it stands, stays as it is and starts a stretch of its own.
std::vector<bool> stable_characters(utf8proc_option_t options) {
  std::vector<bool> stable(kTableEnd, true);
  const bool composes = (options & UTF8PROC_COMPOSE) != 0;
  for (char32_t value = 0; value < kTableEnd; ++value) {
    const auto point = static_cast<utf8proc_int32_t>(value);
    if ((value >= 0xD800 && value < 0xE000) || is_inert(value)) continue;
    if (utf8proc_get_property(point)->combining_class != 0) stable[value] = false;
    if (normalized({point}, options) != std::vector<utf8proc_int32_t>{point}) stable[value] = false;
    if (!composes) continue;
    std::array<utf8proc_int32_t, 32> parts;
    int boundary = 0;
    const auto count = utf8proc_decompose_char(point, parts.data(), parts.size(), UTF8PROC_DECOMPOSE, &boundary);
    if (count > 1) stable[static_cast<char32_t>(parts[static_cast<std::size_t>(count) - 1])] = false;
  }
  return stable;
}

class UnicodeNormalizer final : public Normalizer {
 public:
  explicit UnicodeNormalizer(int options)
      : options_(static_cast<utf8proc_option_t>(options)), stable_(stable_characters(options_)) {}

  void apply(AlignedText& text) const override {
    const std::string_view bytes = text.bytes();
    TextRewriter rewriter(text);
    std::size_t starter = 0;  // begin of the last stable character
    for (std::size_t at = 0; at < bytes.size();) {
      if (static_cast<unsigned char>(bytes[at]) < 0x80) {
        starter = at++;
        continue;
      }
      const CodePoint point = code_point_at(bytes, at);
      if (is_stable(point.value)) {
        starter = is_inert(point.value) ? at + point.length : at;
        at += point.length;
        continue;
      }
      const std::size_t begin = std::max(starter, rewriter.position());
      at = end_of_stretch(bytes, at);
      rewrite(bytes, begin, at, rewriter);
      starter = at;
    }
    if (rewriter.changed()) text = rewriter.finish();
  }

 private:
  bool is_stable(char32_t value) const { return value >= kTableEnd || stable_[value]; }

  std::size_t end_of_stretch(std::string_view bytes, std::size_t at) const {
    while (at < bytes.size()) {
      const CodePoint point = code_point_at(bytes, at);
      if (is_stable(point.value)) break;
      at += point.length;
    }
    return at;
  }

  void rewrite(std::string_view bytes, std::size_t begin, std::size_t end, TextRewriter& rewriter) const {
    std::vector<utf8proc_int32_t> points;
    for (std::size_t at = begin; at < end;) {
      const CodePoint point = code_point_at(bytes, at);
      points.push_back(static_cast<utf8proc_int32_t>(point.value));
      at += point.length;
    }
    std::string made;
    for (utf8proc_int32_t point : normalized(points, options_)) append_utf8(made, static_cast<char32_t>(point));
    if (made == bytes.substr(begin, end - begin)) return;
    rewriter.keep(begin);
    rewriter.replace(end, made);
  }

  utf8proc_option_t options_;
  std::vector<bool> stable_;
};

}  // namespace

std::unique_ptr<Normalizer> make_unicode_normalizer(const JsonNode& node) {
  static const std::map<std::string, int> kForms = {{"NFC", UTF8PROC_STABLE | UTF8PROC_COMPOSE},
                                                    {"NFD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE},
                                                    {"NFKC", UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT},
                                                    {"NFKD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT}};
  return std::make_unique<UnicodeNormalizer>(kForms.at(node.type()));
}

}  // namespace qlora
