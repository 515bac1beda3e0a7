// BLEU as sacrebleu 2 computes it: https://github.com/mjpost/sacrebleu
#include <algorithm>
#include <cmath>
#include <string>

#include "qlora/eval/score/ngrams.h"
#include "qlora/eval/score/text_metric.h"

namespace qlora {
namespace {

constexpr std::size_t kOrders = 4;

// A row's counts: words of the prediction, of the gold, then by order the n-grams in common, then the prediction's.
enum Count : std::size_t {
  kWords,
  kGoldWords,
  kCommon,
  kPredicted = kCommon + kOrders,
  kCounts = kPredicted + kOrders
};

bool is_digit(char32_t c) {
  return c >= U'0' && c <= U'9';
}

bool is_point(char32_t c) {
  return c == U'.' || c == U',';
}

// ASCII that is a word by itself wherever it stands: all but letters, digits, ' , - and .
bool stands_alone(char32_t c) {
  const bool listed = c == U'\'' || c == U',' || c == U'-' || c == U'.';
  const bool letter = (c >= U'a' && c <= U'z') || (c >= U'A' && c <= U'Z');
  return c >= U' ' && c <= U'~' && !listed && !letter && !is_digit(c);
}

void replace_all(Units& text, std::u32string_view from, std::u32string_view to) {
  for (std::size_t at = text.find(from); at != Units::npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
}

// Goes over neighbours from the left: a pair that `matches` is written with `around` it and between, and both are past.
struct PairRule {
  bool (*matches)(char32_t first, char32_t second);
  std::u32string_view before, between, after;
};

Units split_pairs(const PairRule& rule, const Units& text) {
  Units out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (i + 1 == text.size() || !rule.matches(text[i], text[i + 1])) {
      out += text[i];
      continue;
    }
    (((out += rule.before) += text[i]) += rule.between) += text[i + 1];
    out += rule.after;
    ++i;
  }
  return out;
}

// The tokenizer of mteval-v13a.
std::vector<Units> tokenize_13a(std::string_view text) {
  static constexpr PairRule kRules[] = {
      {[](char32_t a, char32_t b) { return !is_digit(a) && is_point(b); }, U"", U" ", U" "},
      {[](char32_t a, char32_t b) { return is_point(a) && !is_digit(b); }, U" ", U" ", U""},
      {[](char32_t a, char32_t b) { return is_digit(a) && b == U'-'; }, U"", U" ", U" "}};
  Units line = characters_of(text);
  while (!line.empty() && split_words(line.substr(line.size() - 1)).empty()) line.pop_back();
  replace_all(line, U"<skipped>", U"");
  replace_all(line, U"-\n", U"");
  replace_all(line, U"\n", U" ");
  replace_all(line, U"&quot;", U"\"");
  replace_all(line, U"&amp;", U"&");
  replace_all(line, U"&lt;", U"<");
  replace_all(line, U"&gt;", U">");
  Units spaced = U" ";
  for (const char32_t c : line) spaced += stands_alone(c) ? Units{U' ', c, U' '} : Units{c};
  spaced += U' ';
  for (const PairRule& rule : kRules) spaced = split_pairs(rule, spaced);
  return split_words(spaced);
}

std::vector<double> bleu_counts(std::string_view prediction, std::string_view gold) {
  WordNumbers numbers;
  const Units ours = numbers.of(tokenize_13a(prediction));
  const Units wanted = numbers.of(tokenize_13a(gold));
  std::vector<double> counts(kCounts);
  counts[kWords] = static_cast<double>(ours.size());
  counts[kGoldWords] = static_cast<double>(wanted.size());
  for (std::size_t n = 0; n < kOrders; ++n) {
    const NgramCounts found = count_ngrams(ours, wanted, n + 1);
    counts[kCommon + n] = found.common;
    counts[kPredicted + n] = found.predicted;
  }
  return counts;
}

// `effective`: orders of which the prediction has no n-gram do not count.
double bleu(std::span<const double> counts, bool effective) {
  if (counts[kCommon] == 0) return 0.0;  // then no longer n-gram is in common either
  double logs = 0.0, smoothing = 1.0;
  std::size_t orders = 0;
  for (; orders < kOrders && counts[kPredicted + orders] > 0; ++orders) {
    double common = counts[kCommon + orders];
    if (common == 0) common = 1.0 / (smoothing *= 2.0);
    logs += std::log(common / counts[kPredicted + orders]);
  }
  if (orders < kOrders && !effective) return 0.0;
  const double brevity = std::min(0.0, 1.0 - counts[kGoldWords] / counts[kWords]);
  return 100.0 * std::exp(brevity + logs / static_cast<double>(orders));
}

}  // namespace

TextMetric bleu_metric() {
  return {"bleu", 100.0, bleu_counts, [](std::span<const double> counts) { return bleu(counts, true); },
          [](std::span<const double> sums) { return bleu(sums, false); }};
}

}  // namespace qlora
