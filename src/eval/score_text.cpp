#include "qlora/eval/score_text.h"

#include <spdlog/fmt/fmt.h>

#include "qlora/eval/task_scores.h"

namespace qlora {

std::string score_text(const std::string& score, const Json& value) {
  if (!value.is_number()) return "-";
  const auto x = value.get<double>();
  return lower_is_better(score) ? fmt::format("{:.4g}", x) : fmt::format("{:.2f} %", 100.0 * x);
}

std::string change_text(const std::string& score, double difference) {
  return lower_is_better(score) ? fmt::format("{:+.4g}", difference) : fmt::format("{:+.2f}", 100.0 * difference);
}

}  // namespace qlora
