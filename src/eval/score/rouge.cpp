// ROUGE as rouge-score computes it: https://github.com/google-research/google-research/tree/master/rouge
#include <algorithm>

#include "qlora/eval/score/ngrams.h"
#include "qlora/eval/score/text_metric.h"

namespace qlora {
namespace {

// Runs of a-z and 0-9 after Python's str.lower(), which makes letters of ASCII out of two others.
std::vector<Units> rouge_words(std::string_view text) {
  constexpr char32_t kKelvin = 0x212A, kDottedI = 0x130;  // 'k'; 'i' and a combining dot
  Units spaced;
  for (char32_t c : characters_of(text)) {
    if (c >= U'A' && c <= U'Z') c += U'a' - U'A';
    if (c == kKelvin) c = U'k';
    if (c == kDottedI) spaced += U'i';
    spaced += (c >= U'a' && c <= U'z') || (c >= U'0' && c <= U'9') ? c : U' ';
  }
  return split_words(spaced);
}

std::vector<double> f1(double common, double predicted, double gold) {
  return {predicted + gold == 0 ? 0.0 : 2.0 * common / (predicted + gold)};
}

template <std::size_t N>
std::vector<double> rouge_n(std::string_view prediction, std::string_view gold) {
  WordNumbers numbers;
  const Units ours = numbers.of(rouge_words(prediction));
  const NgramCounts found = count_ngrams(ours, numbers.of(rouge_words(gold)), N);
  return f1(found.common, found.predicted, found.gold);
}

std::size_t longest_common_subsequence(const Units& a, const Units& b) {
  std::vector<std::size_t> lengths(b.size() + 1, 0);  // of a's beginning so far with each beginning of b
  for (const char32_t unit : a) {
    std::size_t diagonal = 0;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t above = lengths[j + 1];
      lengths[j + 1] = unit == b[j] ? diagonal + 1 : std::max(above, lengths[j]);
      diagonal = above;
    }
  }
  return lengths.back();
}

std::vector<double> rouge_l(std::string_view prediction, std::string_view gold) {
  WordNumbers numbers;
  const Units ours = numbers.of(rouge_words(prediction));
  const Units wanted = numbers.of(rouge_words(gold));
  return f1(static_cast<double>(longest_common_subsequence(ours, wanted)), static_cast<double>(ours.size()),
            static_cast<double>(wanted.size()));
}

double itself(std::span<const double> counts) {
  return counts[0];
}

}  // namespace

TextMetric rouge1_metric() {
  return {"rouge1", 1.0, rouge_n<1>, itself};
}

TextMetric rouge2_metric() {
  return {"rouge2", 1.0, rouge_n<2>, itself};
}

TextMetric rouge_l_metric() {
  return {"rougeL", 1.0, rouge_l, itself};
}

}  // namespace qlora
