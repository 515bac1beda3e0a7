// Regular expressions with Oniguruma's meaning (the engine of Hugging Face's tokenizers), run by PCRE2.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "qlora/text/tokenizer.h"

namespace qlora {

// An Oniguruma (Ruby syntax) pattern in PCRE2's spelling: \s, \w, \h, \b, categories and scripts of Unicode 16,
// options. Throws std::invalid_argument, saying what, for what has no equal there.
std::string translate_oniguruma(std::string_view pattern);

// Members of a class [...] that are \w in Rust's regular expressions, which some parts of tokenizers use.
inline constexpr std::string_view kRustWordMembers = R"(\p{Alphabetic}\p{L}\p{M}\p{Nd}\p{Pc}\x{200c}\x{200d})";

// Immutable; safe from several threads.
class Regex {
 public:
  // Throws std::invalid_argument, naming the offset, where the pattern does not compile.
  explicit Regex(std::string_view pattern);
  static Regex literal(std::string_view text);  // matches `text` itself
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;

  // First match at or after `from` in valid UTF-8. Throws DataError where matching runs out of its bounds.
  std::optional<ByteSpan> find(std::string_view text, std::size_t from) const;

  // All matches from left to right; an empty one that touches the match before it is left out.
  void for_each_match(std::string_view text, const std::function<void(ByteSpan)>& visit) const;

 private:
  struct Code;
  Regex();
  std::unique_ptr<Code> code_;
};

}  // namespace qlora
