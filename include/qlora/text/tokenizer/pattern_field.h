// A field "pattern" of tokenizer.json: {"String": ...} or {"Regex": ...}.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "qlora/text/tokenizer/json_node.h"
#include "qlora/text/tokenizer/regex.h"

namespace qlora {

class PatternField {
 public:
  explicit PatternField(const JsonNode& node);
  const std::optional<std::string>& regex_source() const { return regex_source_; }  // none for a String
  const Regex& regex() const { return *regex_; }
  void for_each_match(std::string_view text, const std::function<void(ByteSpan)>& visit) const;

 private:
  std::optional<std::string> regex_source_;
  std::string literal_;
  std::optional<Regex> regex_;
};

}  // namespace qlora
