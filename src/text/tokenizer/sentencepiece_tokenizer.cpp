#include "qlora/text/tokenizer/sentencepiece_tokenizer.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include <fmt/format.h>
#include <sentencepiece_processor.h>

#include "qlora/core/error.h"
#include "qlora/core/hash.h"
#include "qlora/text/tokenizer/added_tokens.h"
#include "qlora/text/tokenizer/aligned_text.h"
#include "qlora/text/tokenizer/json_node.h"
#include "qlora/text/tokenizer/unicode.h"

namespace qlora {
namespace {

// What no model has in a piece together with anything else: a private character. Put before a text it takes the prefix
// that the model puts before every text.
constexpr std::string_view kShield = "\xEE\x80\x80";  // U+E000

class SentencePieceTokenizer final : public Tokenizer {
 public:
  SentencePieceTokenizer(const std::filesystem::path& file, VocabularyOptions options) : options_(std::move(options)) {
    const std::string bytes = read_tokenizer_bytes(file);
    const auto status = processor_.LoadFromSerializedProto(bytes);
    if (!status.ok()) {
      throw DataError(fmt::format("{}: is no SentencePiece model: {}", file.string(), status.ToString()));
    }
    if (processor_.GetPieceSize() <= 0) throw DataError(fmt::format("{}: the model has no pieces", file.string()));
    std::string parts = fmt::format("{} {} {}", sha256(bytes), options_.add_bos, options_.add_eos);
    for (int id = 0; options_.special_everywhere && id < processor_.GetPieceSize(); ++id) {
      if (processor_.IsControl(id) || processor_.IsUnknown(id)) find_everywhere(processor_.IdToPiece(id), id);
    }
    std::erase_if(options_.added, [&](const auto& token) {
      return is_piece(token.first) && processor_.IdToPiece(token.first) == token.second.content;
    });
    for (const auto& [id, token] : options_.added) {
      find_everywhere(token.content, id);
      added_ids_.emplace(token.content, id);
      parts += fmt::format("\n{} {} {}", id, token.content, token.special);
    }
    fingerprint_ = sha256(parts);
  }

  Encoding encode(std::string_view text, bool add_special_tokens) const override {
    Encoding out;
    const auto add = [&](int id, std::size_t position) {
      if (id < 0) return;
      out.ids.push_back(id);
      out.spans.push_back({position, position});
    };
    if (add_special_tokens && options_.add_bos) add(processor_.bos_id(), 0);
    const AlignedText mended = mend_utf8(text);
    std::size_t done = 0;
    while (const auto match = found_.find(mended.bytes(), done)) {
      encode_section(mended, {done, match->begin}, out);
      out.ids.push_back(match->value);
      out.spans.push_back(mended.origin(match->begin, match->end));
      done = match->end;
    }
    encode_section(mended, {done, mended.bytes().size()}, out);
    if (add_special_tokens && options_.add_eos) add(processor_.eos_id(), text.size());
    return out;
  }

  std::string decode(std::span<const std::int32_t> ids, bool skip_special_tokens) const override {
    std::string out;
    std::vector<int> run;
    for (const std::int32_t id : ids) {
      if (id < 0 || id >= vocabulary_size() || !token_of(id)) {
        throw DataError(
            fmt::format("the token id {} is not in the tokenizer's vocabulary of {} ids", id, vocabulary_size()));
      }
      if (skip_special_tokens && is_special(id)) continue;
      const auto added = options_.added.find(id);
      if (added == options_.added.end()) {
        run.push_back(id);
      } else {
        decode_run(run, out);
        out += added->second.content;
      }
    }
    decode_run(run, out);
    return out;
  }

  std::int32_t vocabulary_size() const override {
    return options_.added.empty() ? pieces() : std::max(pieces(), options_.added.rbegin()->first + 1);
  }
  std::optional<std::int32_t> id_of(std::string_view token) const override {
    if (const auto added = added_ids_.find(std::string(token)); added != added_ids_.end()) return added->second;
    const int id = processor_.PieceToId(token);
    return processor_.IdToPiece(id) == token ? std::optional(id) : std::nullopt;
  }
  std::optional<std::string> token_of(std::int32_t id) const override {
    if (const auto added = options_.added.find(id); added != options_.added.end()) return added->second.content;
    return is_piece(id) ? std::optional(processor_.IdToPiece(id)) : std::nullopt;
  }
  bool is_special(std::int32_t id) const override {
    if (const auto added = options_.added.find(id); added != options_.added.end()) return added->second.special;
    return is_piece(id) && (processor_.IsControl(id) || processor_.IsUnknown(id));
  }
  bool is_byte(std::int32_t id) const override { return is_piece(id) && processor_.IsByte(id); }
  std::string fingerprint() const override { return fingerprint_; }

 private:
  std::int32_t pieces() const { return processor_.GetPieceSize(); }
  bool is_piece(std::int32_t id) const { return id >= 0 && id < pieces(); }

  void find_everywhere(const std::string& content, std::int32_t id) {
    if (!content.empty() && !found_.contains(content)) found_.add(content, id);
  }

  // The section between two found tokens; only the text's first one gets the model's prefix.
  void encode_section(const AlignedText& text, ByteSpan section, Encoding& out) const {
    if (section.begin == section.end && section.begin > 0) return;
    const std::string_view bytes = text.bytes().substr(section.begin, section.end - section.begin);
    const std::size_t shield = section.begin == 0 ? 0 : kShield.size();
    const auto pieces = processor_.EncodeAsImmutableProto(shield == 0 ? bytes : std::string(kShield).append(bytes));
    for (std::size_t i = 0; i < pieces.pieces_size(); ++i) {
      const auto piece = pieces.pieces(static_cast<int>(i));
      if (shield > 0 && piece.begin() < shield) continue;
      out.ids.push_back(static_cast<std::int32_t>(piece.id()));
      out.spans.push_back(text.origin(section.begin + piece.begin() - shield, section.begin + piece.end() - shield));
    }
  }

  // The library drops the prefix before every text that it decodes; behind another token it is a space.
  void decode_run(std::vector<int>& run, std::string& out) const {
    if (run.empty()) return;
    std::string text;
    const auto status = processor_.Decode(run, &text);
    if (!status.ok()) throw DataError(fmt::format("sentencepiece cannot decode: {}", status.ToString()));
    if (!out.empty() && processor_.IdToPiece(run.front()).starts_with("\xE2\x96\x81")) out += ' ';
    out += text;
    run.clear();
  }

  sentencepiece::SentencePieceProcessor processor_;
  VocabularyOptions options_;
  LiteralSet found_;  // in texts, before the model sees them
  std::unordered_map<std::string, std::int32_t> added_ids_;
  std::string fingerprint_;
};

}  // namespace

std::unique_ptr<Tokenizer> read_sentencepiece(const std::filesystem::path& file, VocabularyOptions options) {
  return std::make_unique<SentencePieceTokenizer>(file, std::move(options));
}

}  // namespace qlora
