// A tokenizer.json as a whole: added tokens, normalizer, pre-tokenizer, model, post-processor, decoder.
#pragma once

#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "qlora/text/tokenizer.h"
#include "qlora/text/tokenizer/added_tokens.h"
#include "qlora/text/tokenizer/normalizer.h"
#include "qlora/text/tokenizer/post_processor.h"
#include "qlora/text/tokenizer/pre_tokenizer.h"
#include "qlora/text/tokenizer/token_decoder.h"
#include "qlora/text/tokenizer/token_model.h"

namespace qlora {

class JsonTokenizer final : public Tokenizer {
 public:
  struct Options {
    AddedTokens::Rules added;
    // A byte-level model reads bytes, not their printable characters, where it can: the same ids.
    bool raw_bytes = true;
  };
  static std::unique_ptr<JsonTokenizer> read(const std::filesystem::path& file, Options options);
  static std::unique_ptr<JsonTokenizer> read(const std::filesystem::path& file) { return read(file, Options()); }
  // What `root` says around a model that was read elsewhere.
  static std::unique_ptr<JsonTokenizer> assemble(std::unique_ptr<TokenModel> model, const JsonNode& root,
                                                 const Options& options, std::string fingerprint);

  Encoding encode(std::string_view text, bool add_special_tokens) const override;
  std::string decode(std::span<const std::int32_t> ids, bool skip_special_tokens) const override;
  std::int32_t vocabulary_size() const override { return static_cast<std::int32_t>(decoded_.size()); }
  std::optional<std::int32_t> id_of(std::string_view token) const override;
  std::optional<std::string> token_of(std::int32_t id) const override;
  bool is_special(std::int32_t id) const override;
  bool is_byte(std::int32_t id) const override;
  std::string fingerprint() const override { return fingerprint_; }

 private:
  // What an id decodes to before the decoder; `skipped` where skip_special_tokens leaves it out.
  struct Decoded {
    std::string text;
    bool known = false;
    bool skipped = false;
  };
  class Borrowed;

  void read_parts(const JsonNode& root, const Options& options);
  void check_frame(const JsonNode& root) const;
  void fill_decoded(bool skip_by_text);
  void encode_section(AlignedText section, TokenModel::Scratch& scratch, Encoding& out) const;
  void encode_raw(std::string_view text, TokenModel::Scratch& scratch, Encoding& out) const;

  std::unique_ptr<Normalizer> normalizer_;
  std::unique_ptr<PreTokenizer> pre_tokenizer_;
  std::unique_ptr<TokenModel> model_;
  std::unique_ptr<TokenDecoder> decoder_;
  AddedTokens added_;
  SpecialFrame frame_;
  std::vector<Decoded> decoded_;  // by id
  std::string fingerprint_;
  mutable std::mutex scratches_mutex_;
  mutable std::vector<std::unique_ptr<TokenModel::Scratch>> scratches_;  // those that no thread uses now
};

}  // namespace qlora
