#include "qlora/text/tokenizer/sentencepiece_tokenizer.h"

#include <fmt/format.h>
#include <sentencepiece_processor.h>

#include "qlora/core/error.h"
#include "qlora/core/hash.h"
#include "qlora/text/tokenizer/aligned_text.h"
#include "qlora/text/tokenizer/json_node.h"
#include "qlora/text/tokenizer/unicode.h"

namespace qlora {
namespace {

class SentencePieceTokenizer final : public Tokenizer {
 public:
  SentencePieceTokenizer(const std::filesystem::path& file, SentencePieceFrame frame) : frame_(frame) {
    const std::string bytes = read_tokenizer_bytes(file);
    const auto status = processor_.LoadFromSerializedProto(bytes);
    if (!status.ok()) {
      throw DataError(fmt::format("{}: is no SentencePiece model: {}", file.string(), status.ToString()));
    }
    if (processor_.GetPieceSize() <= 0) throw DataError(fmt::format("{}: the model has no pieces", file.string()));
    fingerprint_ = sha256(fmt::format("{} {} {}", sha256(bytes), frame.add_bos, frame.add_eos));
  }

  Encoding encode(std::string_view text, bool add_special_tokens) const override {
    Encoding out;
    const auto add = [&](int id, std::size_t position) {
      if (id < 0) return;
      out.ids.push_back(id);
      out.spans.push_back({position, position});
    };
    if (add_special_tokens && frame_.add_bos) add(processor_.bos_id(), 0);
    const AlignedText mended = mend_utf8(text);
    const auto pieces = processor_.EncodeAsImmutableProto(mended.bytes());
    for (std::size_t i = 0; i < pieces.pieces_size(); ++i) {
      const auto piece = pieces.pieces(static_cast<int>(i));
      out.ids.push_back(static_cast<std::int32_t>(piece.id()));
      out.spans.push_back(mended.origin(piece.begin(), piece.end()));
    }
    if (add_special_tokens && frame_.add_eos) add(processor_.eos_id(), text.size());
    return out;
  }

  std::string decode(std::span<const std::int32_t> ids, bool skip_special_tokens) const override {
    std::vector<int> kept;
    for (const std::int32_t id : ids) {
      if (id < 0 || id >= vocabulary_size()) {
        throw DataError(
            fmt::format("the token id {} is not in the tokenizer's vocabulary of {} ids", id, vocabulary_size()));
      }
      if (!skip_special_tokens || !is_special(id)) kept.push_back(id);
    }
    std::string out;
    const auto status = processor_.Decode(kept, &out);
    if (!status.ok()) throw DataError(fmt::format("sentencepiece cannot decode: {}", status.ToString()));
    return out;
  }

  std::int32_t vocabulary_size() const override { return processor_.GetPieceSize(); }
  std::optional<std::int32_t> id_of(std::string_view token) const override {
    const int id = processor_.PieceToId(token);
    return processor_.IdToPiece(id) == token ? std::optional(id) : std::nullopt;
  }
  std::optional<std::string> token_of(std::int32_t id) const override {
    if (id < 0 || id >= vocabulary_size()) return std::nullopt;
    return processor_.IdToPiece(id);
  }
  bool is_special(std::int32_t id) const override {
    return id >= 0 && id < vocabulary_size() && (processor_.IsControl(id) || processor_.IsUnknown(id));
  }
  bool is_byte(std::int32_t id) const override { return id >= 0 && id < vocabulary_size() && processor_.IsByte(id); }
  std::string fingerprint() const override { return fingerprint_; }

 private:
  sentencepiece::SentencePieceProcessor processor_;
  SentencePieceFrame frame_;
  std::string fingerprint_;
};

}  // namespace

std::unique_ptr<Tokenizer> read_sentencepiece(const std::filesystem::path& file, SentencePieceFrame frame) {
  return std::make_unique<SentencePieceTokenizer>(file, frame);
}

}  // namespace qlora
