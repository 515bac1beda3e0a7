// Template source to tokens: tags, white-space control, literals.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "qlora/text/jinja/value.h"

namespace qlora::jinja {

// A failure at a place of the source.
struct SyntaxFailure : Failure {
  SyntaxFailure(std::size_t where, const std::string& message) : Failure(message), at(where) {}
  std::size_t at;  // byte of the normalized source
};

enum class TokenType : std::uint8_t {
  kData,
  kVariableBegin,
  kVariableEnd,
  kBlockBegin,
  kBlockEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenType type = TokenType::kEnd;
  std::uint32_t at = 0;  // byte of the source
  std::string text;      // of data and strings: the value; else as written
  std::int64_t integer = 0;
  double number = 0;
};

// Line ends become \n, one newline at the end goes: what the tokens' places refer to.
std::string normalize_source(std::string_view source);

// With trim_blocks and lstrip_blocks. Throws SyntaxFailure.
std::vector<Token> tokenize(std::string_view source);

std::string describe(const Token& token);

}  // namespace qlora::jinja
