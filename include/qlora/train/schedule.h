// Learning-rate schedules as transformers' get_scheduler has them.
#pragma once

#include <cstdint>

#include "qlora/train/options.h"

namespace qlora {

// The factor of the learning rate at optimizer step `step`, counted from 0: a warm-up starts at 0.
//   warm-up   step / warmup
//   linear    (total - step) / (total - warmup)
//   cosine    (1 + cos(pi (step - warmup) / (total - warmup))) / 2
//   constant  1 (kConstant knows no warm-up)
double schedule_factor(Scheduler scheduler, std::int64_t step, std::int64_t warmup, std::int64_t total);

// warmup_steps where it is set, else warmup_ratio of all steps, rounded up.
std::int64_t warmup_steps(const TrainOptions& options, std::int64_t total_steps);

}  // namespace qlora
