// The field "model" of tokenizer.json: pieces of text to token ids.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "qlora/text/tokenizer/json_node.h"

namespace qlora {

struct ModelToken {
  std::int32_t id = 0;
  std::uint32_t length = 0;  // bytes of the piece
};

// Largest id that a file may name, so that tables by id stay small.
constexpr std::int64_t kMaxTokenId = (1 << 24) - 1;
// Of a token, where every place of a text is held against so many; the longest of real vocabularies has 128.
constexpr std::size_t kMaxTokenBytes = 1024;

// Immutable after loading.
class TokenModel {
 public:
  // What one thread needs while it tokenizes: buffers and a cache.
  struct Scratch {
    virtual ~Scratch() = default;
  };

  virtual ~TokenModel() = default;
  virtual std::unique_ptr<Scratch> make_scratch() const = 0;
  // Appends the tokens of one piece.
  virtual void tokenize(std::string_view piece, Scratch& scratch, std::vector<ModelToken>& out) const = 0;

  virtual std::optional<std::int32_t> id_of(std::string_view token) const = 0;
  virtual std::optional<std::string_view> token_of(std::int32_t id) const = 0;
  virtual std::int32_t size() const = 0;    // number of tokens
  virtual std::int32_t max_id() const = 0;  // -1 where empty

  // Whether it can read raw bytes instead of their printable characters (byte_characters.h); use_raw_bytes switches.
  virtual bool can_use_raw_bytes() const { return false; }
  virtual void use_raw_bytes() {}
};

std::unique_ptr<TokenModel> make_token_model(const JsonNode& node);

// Factories, one a kind; the table in token_model.cpp names them.
std::unique_ptr<TokenModel> make_bpe(const JsonNode& node);
std::unique_ptr<TokenModel> make_unigram(const JsonNode& node);

}  // namespace qlora
