#include "qlora/eval/score/ngrams.h"

#include <algorithm>
#include <iterator>

#include "qlora/text/jinja/unicode.h"
#include "qlora/text/tokenizer/unicode.h"

namespace qlora {
namespace {

std::vector<std::u32string_view> sorted_ngrams(const Units& units, std::size_t n) {
  std::vector<std::u32string_view> ngrams;
  for (std::size_t i = 0; i + n <= units.size(); ++i) ngrams.push_back(std::u32string_view(units).substr(i, n));
  std::sort(ngrams.begin(), ngrams.end());
  return ngrams;
}

}  // namespace

Units characters_of(std::string_view text) {
  return jinja::unicode::to_characters(replace_invalid_utf8(text));
}

std::vector<Units> split_words(const Units& text) {
  std::vector<Units> words;
  bool within = false;
  for (const char32_t c : text) {
    if (jinja::unicode::is_space(c)) {
      within = false;
      continue;
    }
    if (!within) words.emplace_back();
    within = true;
    words.back() += c;
  }
  return words;
}

Units WordNumbers::of(const std::vector<Units>& words) {
  Units units;
  for (const Units& word : words) units += numbers_.emplace(word, numbers_.size()).first->second;
  return units;
}

NgramCounts count_ngrams(const Units& predicted, const Units& gold, std::size_t n) {
  const auto ours = sorted_ngrams(predicted, n);
  const auto wanted = sorted_ngrams(gold, n);
  std::vector<std::u32string_view> common;
  std::set_intersection(ours.begin(), ours.end(), wanted.begin(), wanted.end(), std::back_inserter(common));
  return {static_cast<double>(ours.size()), static_cast<double>(wanted.size()), static_cast<double>(common.size())};
}

}  // namespace qlora
