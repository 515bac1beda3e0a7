// chrF2 as sacrebleu 2 computes it: https://github.com/mjpost/sacrebleu
#include "qlora/eval/score/ngrams.h"
#include "qlora/eval/score/text_metric.h"

namespace qlora {
namespace {

constexpr std::size_t kOrders = 6;
constexpr double kBetaSquared = 4.0;

Units without_spaces(std::string_view text) {
  Units out;
  for (const Units& word : split_words(characters_of(text))) out += word;
  return out;
}

// By order: n-grams of the prediction (none where the gold has none), of the gold, in common.
std::vector<double> chrf_counts(std::string_view prediction, std::string_view gold) {
  const Units ours = without_spaces(prediction);
  const Units wanted = without_spaces(gold);
  std::vector<double> counts;
  for (std::size_t n = 1; n <= kOrders; ++n) {
    const NgramCounts found = count_ngrams(ours, wanted, n);
    counts.insert(counts.end(), {found.gold > 0 ? found.predicted : 0.0, found.gold, found.common});
  }
  return counts;
}

double chrf(std::span<const double> counts) {
  double precision = 0.0, recall = 0.0, orders = 0.0;
  for (std::size_t n = 0; n < kOrders; ++n) {
    const double predicted = counts[3 * n], gold = counts[3 * n + 1], common = counts[3 * n + 2];
    if (predicted == 0 || gold == 0) continue;
    precision += common / predicted;
    recall += common / gold;
    ++orders;
  }
  if (precision + recall == 0.0) return 0.0;
  precision /= orders;
  recall /= orders;
  return 100.0 * (1.0 + kBetaSquared) * precision * recall / (kBetaSquared * precision + recall);
}

}  // namespace

TextMetric chrf_metric() {
  return {"chrf", 100.0, chrf_counts, chrf, chrf};
}

}  // namespace qlora
