// Byte pair encoding as Hugging Face's tokenizers have it, over characters or over raw bytes.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "qlora/text/tokenizer/token_model.h"
#include "qlora/text/tokenizer/token_tables.h"

namespace qlora {

struct BpeOptions {
  std::optional<std::string> unk_token;
  std::string continuing_subword_prefix;  // before every character of a word but the first
  std::string end_of_word_suffix;         // after the last character of a word
  bool fuse_unk = false;                  // neighbouring unknown characters become one token
  bool byte_fallback = false;             // an unknown character becomes its bytes' tokens "<0xNN>", where all exist
  bool ignore_merges = false;             // a word that is a token is that token, whatever merges would give
};

class Bpe final : public TokenModel {
 public:
  Bpe(BpeOptions options, TokenTable tokens, MergeTable merges);

  std::unique_ptr<Scratch> make_scratch() const override;
  void tokenize(std::string_view piece, Scratch& scratch, std::vector<ModelToken>& out) const override;
  std::optional<std::int32_t> id_of(std::string_view token) const override { return tokens_.id_of(token); }
  std::optional<std::string_view> token_of(std::int32_t id) const override { return tokens_.text_of(id); }
  std::int32_t size() const override { return tokens_.size(); }
  std::int32_t max_id() const override { return tokens_.max_id(); }
  bool can_use_raw_bytes() const override;
  void use_raw_bytes() override;

 private:
  struct Buffers;

  void tokenize_word(std::string_view word, Buffers& buffers, std::vector<ModelToken>& out) const;
  void start_from_bytes(std::string_view word, std::vector<ModelToken>& symbols) const;
  void start_from_characters(std::string_view word, std::vector<ModelToken>& symbols) const;
  std::optional<std::int32_t> character_id(std::string_view character, bool first, bool last) const;
  bool add_fallback_bytes(std::string_view character, bool first, bool last, std::vector<ModelToken>& symbols) const;
  PairMerge merge_of(const ModelToken& left, const ModelToken& right) const { return merges_.find(left.id, right.id); }
  void merge_few(std::string_view word, Buffers& buffers) const;
  void merge_many(Buffers& buffers) const;
  void remember(std::string_view word, std::uint64_t hash, Buffers& buffers) const;
  bool splits_before_mark() const;
  std::optional<std::int32_t> whole_word(std::string_view piece) const;

  BpeOptions options_;
  TokenTable tokens_;
  MergeTable merges_;
  std::vector<std::uint32_t> lengths_;  // by id: bytes of a piece that the token stands for when merged from characters
  std::array<std::int32_t, 256> fallback_{};  // ids of "<0xNN>", -1 where missing
  std::array<std::int32_t, 128> ascii_{};     // ids of ASCII characters, -1 where missing
  std::array<std::int32_t, 256> byte_ids_{};  // raw bytes: the id of each
  std::vector<PairMerge> byte_merges_;        // raw bytes: merges of two bytes
  TokenTable raw_tokens_;                     // raw bytes: ids by the bytes a token stands for
  bool raw_ = false;
  bool split_before_mark_ = false;
};

}  // namespace qlora
