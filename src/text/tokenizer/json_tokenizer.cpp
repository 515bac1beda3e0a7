#include "qlora/text/tokenizer/json_tokenizer.h"

#include <algorithm>

#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/core/hash.h"
#include "qlora/text/tokenizer/unicode.h"

namespace qlora {

// One thread's scratch, given back at the end of a call.
class JsonTokenizer::Borrowed {
 public:
  explicit Borrowed(const JsonTokenizer& owner) : owner_(owner) {
    {
      const std::lock_guard lock(owner_.scratches_mutex_);
      if (!owner_.scratches_.empty()) {
        scratch_ = std::move(owner_.scratches_.back());
        owner_.scratches_.pop_back();
      }
    }
    if (!scratch_) scratch_ = owner_.model_->make_scratch();
  }
  ~Borrowed() {
    const std::lock_guard lock(owner_.scratches_mutex_);
    owner_.scratches_.push_back(std::move(scratch_));
  }
  Borrowed(const Borrowed&) = delete;
  Borrowed& operator=(const Borrowed&) = delete;
  TokenModel::Scratch& operator*() { return *scratch_; }

 private:
  const JsonTokenizer& owner_;
  std::unique_ptr<TokenModel::Scratch> scratch_;
};

std::unique_ptr<JsonTokenizer> JsonTokenizer::read(const std::filesystem::path& file, Options options) {
  const std::string bytes = read_tokenizer_bytes(file);
  const nlohmann::json document = parse_tokenizer_json(bytes, file.string());
  const JsonNode root(document, file.string());
  if (const auto version = root.find("version")) {
    if (version->text() != "1.0") version->fail(fmt::format("\"{}\" is not \"1.0\"", version->text()));
  }
  return assemble(make_token_model(root.at("model")), root, options, sha256(bytes));
}

std::unique_ptr<JsonTokenizer> JsonTokenizer::assemble(std::unique_ptr<TokenModel> model, const JsonNode& root,
                                                       const Options& options, std::string fingerprint) {
  auto tokenizer = std::make_unique<JsonTokenizer>();
  tokenizer->model_ = std::move(model);
  tokenizer->read_parts(root, options);
  tokenizer->fingerprint_ = std::move(fingerprint);
  return tokenizer;
}

void JsonTokenizer::read_parts(const JsonNode& root, const Options& options) {
  if (const auto node = root.find("normalizer")) normalizer_ = make_normalizer(*node);
  if (const auto node = root.find("pre_tokenizer")) pre_tokenizer_ = make_pre_tokenizer(*node);
  if (const auto node = root.find("decoder")) decoder_ = make_token_decoder(*node);
  if (const auto node = root.find("post_processor")) frame_ = read_post_processor(*node);
  if (const auto node = root.find("added_tokens")) {
    added_ = AddedTokens(*node, *model_, normalizer_.get(), options.added);
  }
  if (options.raw_bytes && pre_tokenizer_ && model_->can_use_raw_bytes() && pre_tokenizer_->leave_raw_bytes()) {
    model_->use_raw_bytes();
  }
  fill_decoded(/*skip_by_text=*/!options.added.declared_ids);
  check_frame(root);
}

void JsonTokenizer::fill_decoded(bool skip_by_text) {
  std::int32_t most = model_->max_id();
  if (!added_.all().empty()) most = std::max(most, added_.all().rbegin()->first);
  decoded_.resize(static_cast<std::size_t>(most) + 1);
  for (std::int32_t id = 0; id <= most; ++id) {
    Decoded& decoded = decoded_[static_cast<std::size_t>(id)];
    if (const AddedToken* token = added_.find(id)) {
      decoded = {token->pattern, true, false};
    } else if (const auto text = model_->token_of(id)) {
      decoded = {std::string(*text), true, false};
    }
    // The reference skips by text: a token whose normalized text is not its content is never skipped.
    const AddedToken* same = skip_by_text ? added_.find(decoded.text) : added_.find(id);
    decoded.skipped = decoded.known && same != nullptr && same->special;
  }
}

void JsonTokenizer::check_frame(const JsonNode& root) const {
  for (const auto* side : {&frame_.before, &frame_.after}) {
    for (const std::int32_t id : *side) {
      if (!token_of(id)) root.at("post_processor").fail(fmt::format("adds the id {}, which is no token", id));
    }
  }
}

Encoding JsonTokenizer::encode(std::string_view text, bool add_special_tokens) const {
  // Normalization may lengthen a text; pieces count in 32 bits.
  if (text.size() >= (std::size_t{1} << 30)) throw DataError("a text of 1 GiB or more cannot be tokenized at once");
  Borrowed scratch(*this);
  Encoding out;
  out.ids.reserve(text.size() / 4 + 8);
  out.spans.reserve(text.size() / 4 + 8);
  const auto frame = [&](const std::vector<std::int32_t>& ids, std::size_t position) {
    out.ids.insert(out.ids.end(), ids.begin(), ids.end());
    out.spans.insert(out.spans.end(), ids.size(), ByteSpan{position, position});
  };
  if (add_special_tokens) frame(frame_.before, 0);
  const AlignedText mended = mend_utf8(text);
  const std::size_t first = out.spans.size();
  encode_raw(mended.bytes(), *scratch, out);
  if (!mended.changes().empty()) {
    for (std::size_t i = first; i < out.spans.size(); ++i) {
      out.spans[i] = mended.origin(out.spans[i].begin, out.spans[i].end);
    }
  }
  if (add_special_tokens) frame(frame_.after, text.size());
  return out;
}

void JsonTokenizer::encode_raw(std::string_view text, TokenModel::Scratch& scratch, Encoding& out) const {
  std::vector<TextPiece> sections;
  added_.cut_raw(text, sections);
  for (const TextPiece& section : sections) {
    if (section.id >= 0) {
      out.ids.push_back(section.id);
      out.spans.push_back({section.begin, section.end});
    } else {
      encode_section(AlignedText(text.substr(section.begin, section.end - section.begin), section.begin), scratch, out);
    }
  }
}

void JsonTokenizer::encode_section(AlignedText section, TokenModel::Scratch& scratch, Encoding& out) const {
  if (normalizer_) normalizer_->apply(section);
  if (section.empty()) return;
  PreTokenized text{std::move(section), {}};
  added_.cut_normalized(text.text.bytes(), text.pieces);
  if (pre_tokenizer_) pre_tokenizer_->apply(text);
  const std::string_view bytes = text.text.bytes();
  OriginCursor cursor(text.text);
  std::vector<ModelToken> tokens;
  for (const TextPiece& piece : text.pieces) {
    if (piece.id >= 0) {
      out.ids.push_back(piece.id);
      out.spans.push_back(cursor.origin(piece.begin, piece.end));
      continue;
    }
    tokens.clear();
    model_->tokenize(bytes.substr(piece.begin, piece.end - piece.begin), scratch, tokens);
    std::size_t at = piece.begin;
    for (const ModelToken& token : tokens) {
      out.ids.push_back(token.id);
      out.spans.push_back(cursor.origin(at, at + token.length));
      at += token.length;
    }
  }
}

std::string JsonTokenizer::decode(std::span<const std::int32_t> ids, bool skip_special_tokens) const {
  std::vector<std::string> tokens;
  tokens.reserve(ids.size());
  for (const std::int32_t id : ids) {
    const bool inside = id >= 0 && static_cast<std::size_t>(id) < decoded_.size();
    if (!inside || !decoded_[static_cast<std::size_t>(id)].known) {
      throw DataError(
          fmt::format("the token id {} is not in the tokenizer's vocabulary of {} ids", id, decoded_.size()));
    }
    const Decoded& decoded = decoded_[static_cast<std::size_t>(id)];
    if (!skip_special_tokens || !decoded.skipped) tokens.push_back(decoded.text);
  }
  if (decoder_) decoder_->apply(tokens);
  std::string out;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (!decoder_ && i > 0) out += ' ';
    out += tokens[i];
  }
  return out;
}

std::optional<std::int32_t> JsonTokenizer::id_of(std::string_view token) const {
  if (const AddedToken* added = added_.find(token)) return added->id;
  return model_->id_of(token);
}

std::optional<std::string> JsonTokenizer::token_of(std::int32_t id) const {
  if (const AddedToken* added = added_.find(id)) return added->content;
  const auto text = model_->token_of(id);
  return text ? std::optional(std::string(*text)) : std::nullopt;
}

bool JsonTokenizer::is_special(std::int32_t id) const {
  const AddedToken* added = added_.find(id);
  return added != nullptr && added->special;
}

bool JsonTokenizer::is_byte(std::int32_t id) const {
  if (!decoder_ || !decoder_->joins_byte_tokens()) return false;
  const auto token = token_of(id);
  return token && byte_of_token(*token) >= 0;
}

}  // namespace qlora
