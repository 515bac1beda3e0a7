#include "qlora/eval/score/text_metric.h"
#include "qlora/eval/score/text_scores.h"

namespace qlora {

TextMetric exact_string_metric() {
  TextMetric metric{"exact_string"};
  metric.counts = [](std::string_view prediction, std::string_view gold) {
    return std::vector<double>{exact_string(prediction, gold) ? 1.0 : 0.0};
  };
  metric.row = [](std::span<const double> counts) { return counts[0]; };
  return metric;
}

}  // namespace qlora
