// ByteLevel: GPT-2's split, and bytes as printable characters.
#include "qlora/text/tokenizer/byte_characters.h"
#include "qlora/text/tokenizer/pre_tokenizer.h"
#include "qlora/text/tokenizer/split_pattern.h"
#include "qlora/text/tokenizer/unicode.h"

namespace qlora {
namespace {

class ByteLevel final : public PreTokenizer {
 public:
  explicit ByteLevel(const JsonNode& node)
      : add_prefix_space_(node.at("add_prefix_space").flag()), use_regex_(node.flag_or("use_regex", true)) {
    node.at("trim_offsets").flag();  // concerns offsets alone; spans stay whole
  }

  void apply(PreTokenized& text) const override {
    if (add_prefix_space_) add_spaces(text);
    if (use_regex_) {
      cut_pieces(text, [](std::string_view piece, std::uint32_t offset, std::vector<TextPiece>& out) {
        scan_known_pattern(KnownPattern::kGpt2, piece, offset, out);
      });
    }
    if (map_bytes_) rewrite_pieces(text, [&](const TextPiece& piece, TextRewriter& out) { map(text, piece, out); });
  }

  bool leave_raw_bytes() override {
    map_bytes_ = false;
    return true;
  }

 private:
  static void add_spaces(PreTokenized& text) {
    rewrite_pieces(text, [&](const TextPiece& piece, TextRewriter& out) {
      const std::string_view bytes = text.text.bytes();
      if (bytes[piece.begin] == ' ') return;
      const std::uint32_t length = code_point_at(bytes, piece.begin).length;
      out.replace(piece.begin + length, std::string(1, ' ').append(bytes.substr(piece.begin, length)));
    });
  }

  static void map(const PreTokenized& text, const TextPiece& piece, TextRewriter& out) {
    const std::string_view bytes = text.text.bytes();
    for (std::size_t at = piece.begin; at < piece.end; ++at) {
      const std::string& character = byte_characters()[static_cast<unsigned char>(bytes[at])];
      if (character.size() == 1) continue;
      out.keep(at);
      out.replace(at + 1, character);
    }
  }

  bool add_prefix_space_, use_regex_;
  bool map_bytes_ = true;
};

}  // namespace

std::unique_ptr<PreTokenizer> make_byte_level(const JsonNode& node) {
  return std::make_unique<ByteLevel>(node);
}

}  // namespace qlora
