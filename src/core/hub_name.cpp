#include "qlora/core/hub_name.h"

#include <algorithm>

namespace qlora {
namespace {

bool is_word_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '.';
}

}  // namespace

bool is_hub_word(std::string_view text) {
  constexpr std::size_t kLongest = 96;
  return !text.empty() && text.size() <= kLongest && text.front() != '.' &&
         std::all_of(text.begin(), text.end(), is_word_character);
}

bool is_hub_name(std::string_view text) {
  const std::size_t slash = text.find('/');
  return slash != std::string_view::npos && is_hub_word(text.substr(0, slash)) && is_hub_word(text.substr(slash + 1));
}

}  // namespace qlora
