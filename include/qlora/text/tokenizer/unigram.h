// The unigram language model of SentencePiece as Hugging Face's tokenizers have it.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "qlora/text/tokenizer/prefix_trie.h"
#include "qlora/text/tokenizer/token_model.h"
#include "qlora/text/tokenizer/token_tables.h"

namespace qlora {

struct UnigramOptions {
  std::optional<std::int32_t> unk_id;
  bool byte_fallback = false;  // unknown characters become their bytes' tokens "<0xNN>", where all exist
};

// The path of tokens with the largest sum of scores (log-probabilities, float64); of equal ones the one whose last
// token is the longest. A character that is no token costs the lowest score less 10; neighbouring ones are one token.
class Unigram final : public TokenModel {
 public:
  Unigram(UnigramOptions options, TokenTable tokens, std::vector<double> scores);  // scores: by id, one a token

  std::unique_ptr<Scratch> make_scratch() const override;
  void tokenize(std::string_view piece, Scratch& scratch, std::vector<ModelToken>& out) const override;
  std::optional<std::int32_t> id_of(std::string_view token) const override { return tokens_.id_of(token); }
  std::optional<std::string_view> token_of(std::int32_t id) const override { return tokens_.text_of(id); }
  std::int32_t size() const override { return tokens_.size(); }
  std::int32_t max_id() const override { return tokens_.max_id(); }

 private:
  struct Buffers;

  void find_paths(std::string_view piece, Buffers& buffers) const;
  void append_unknown(std::string_view text, std::vector<ModelToken>& out) const;

  UnigramOptions options_;
  TokenTable tokens_;
  std::vector<double> scores_;
  double unknown_score_;
  PrefixTrie trie_;
};

}  // namespace qlora
