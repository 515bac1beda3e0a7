#include "qlora/eval/score_text.h"

#include <spdlog/fmt/fmt.h>

#include "qlora/eval/task_scores.h"

namespace qlora {

std::string score_text(const std::string& score, const Json& value) {
  if (!value.is_number()) return "-";
  const auto x = value.get<double>();
  if (lower_is_better(score)) return fmt::format("{:.4g}", x);
  return best_score(score) == 1.0 ? fmt::format("{:.2f} %", 100.0 * x) : fmt::format("{:.2f}", x);
}

std::string change_text(const std::string& score, double difference) {
  if (lower_is_better(score)) return fmt::format("{:+.4g}", difference);
  return fmt::format("{:+.2f}", difference * 100.0 / best_score(score));
}

}  // namespace qlora
