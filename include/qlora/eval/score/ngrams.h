// Texts as sequences of units (characters, or words by number), and the n-grams that two of them have in common.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace qlora {

// Code points, or numbers that stand for words.
using Units = std::u32string;

// The code points of a text; what is no UTF-8 is U+FFFD.
Units characters_of(std::string_view text);

// Words cut at what Python's str.split() takes for white space.
std::vector<Units> split_words(const Units& text);

// Gives equal words equal numbers.
class WordNumbers {
 public:
  Units of(const std::vector<Units>& words);

 private:
  std::map<Units, char32_t> numbers_;
};

struct NgramCounts {
  double predicted = 0, gold = 0;
  double common = 0;  // each n-gram as often as both have it
};
NgramCounts count_ngrams(const Units& predicted, const Units& gold, std::size_t n);

}  // namespace qlora
