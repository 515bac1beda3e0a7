// The field "decoder" of tokenizer.json: the texts of tokens back to one text.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "qlora/text/tokenizer/json_node.h"

namespace qlora {

class TokenDecoder {
 public:
  virtual ~TokenDecoder() = default;
  virtual void apply(std::vector<std::string>& tokens) const = 0;
  // Whether tokens "<0xNN>" become bytes.
  virtual bool joins_byte_tokens() const { return false; }
};

std::unique_ptr<TokenDecoder> make_token_decoder(const JsonNode& node);

// The byte of a token of the form "<0xNN>", -1 for any other.
int byte_of_token(std::string_view token);

}  // namespace qlora
