#include "qlora/eval/score/text_metric.h"

namespace qlora {

const std::vector<TextMetric>& text_metrics() {
  static const std::vector<TextMetric> metrics = {exact_string_metric(), bleu_metric(),   chrf_metric(),
                                                  rouge1_metric(),       rouge2_metric(), rouge_l_metric()};
  return metrics;
}

}  // namespace qlora
