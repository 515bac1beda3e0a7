#include "qlora/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace qlora {

double schedule_factor(Scheduler scheduler, std::int64_t step, std::int64_t warmup, std::int64_t total) {
  if (scheduler == Scheduler::kConstant) return 1.0;
  if (step < warmup) return static_cast<double>(step) / static_cast<double>(std::max<std::int64_t>(1, warmup));
  const double rest = static_cast<double>(std::max<std::int64_t>(1, total - warmup));
  switch (scheduler) {
    case Scheduler::kLinear:
      return std::max(0.0, static_cast<double>(total - step) / rest);
    case Scheduler::kCosine: {
      const double progress = static_cast<double>(step - warmup) / rest;
      return std::max(0.0, 0.5 * (1.0 + std::cos(std::numbers::pi * progress)));
    }
    default:
      return 1.0;
  }
}

std::int64_t warmup_steps(const TrainOptions& options, std::int64_t total_steps) {
  if (options.warmup_steps > 0) return options.warmup_steps;
  return static_cast<std::int64_t>(std::ceil(static_cast<double>(total_steps) * options.warmup_ratio));
}

}  // namespace qlora
