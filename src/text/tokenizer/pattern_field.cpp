#include "qlora/text/tokenizer/pattern_field.h"

#include <stdexcept>

#include <fmt/format.h>

namespace qlora {

PatternField::PatternField(const JsonNode& node) {
  if (const auto literal = node.find("String")) {
    literal_ = literal->text();
    regex_ = Regex::literal(literal_);
    return;
  }
  const JsonNode source = node.at("Regex");
  try {
    regex_.emplace(source.text());
  } catch (const std::invalid_argument& error) {
    source.fail(fmt::format("the regular expression cannot be used: {}", error.what()));
  }
  regex_source_ = source.text();
}

void PatternField::for_each_match(std::string_view text, const std::function<void(ByteSpan)>& visit) const {
  if (literal_.empty()) return regex_->for_each_match(text, visit);
  for (std::size_t at = text.find(literal_); at != std::string_view::npos;
       at = text.find(literal_, at + literal_.size())) {
    visit({at, at + literal_.size()});
  }
}

}  // namespace qlora
