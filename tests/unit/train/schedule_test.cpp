// Learning rates; the numbers are those of transformers' get_scheduler (its formulas written out).
#include "qlora/train/schedule.h"

#include <cmath>
#include <numbers>

#include <gtest/gtest.h>

namespace qlora {
namespace {

TEST(Schedule, WarmUpStartsAtZeroAndEndsAtOne) {
  for (const Scheduler s : {Scheduler::kLinear, Scheduler::kCosine, Scheduler::kConstantWithWarmup}) {
    EXPECT_EQ(schedule_factor(s, 0, 4, 20), 0.0);
    EXPECT_EQ(schedule_factor(s, 1, 4, 20), 0.25);
    EXPECT_EQ(schedule_factor(s, 4, 4, 20), 1.0);
  }
  EXPECT_EQ(schedule_factor(Scheduler::kConstant, 0, 4, 20), 1.0);
}

TEST(Schedule, LinearFallsToZero) {
  EXPECT_EQ(schedule_factor(Scheduler::kLinear, 12, 4, 20), 0.5);
  EXPECT_EQ(schedule_factor(Scheduler::kLinear, 20, 4, 20), 0.0);
  EXPECT_EQ(schedule_factor(Scheduler::kLinear, 25, 4, 20), 0.0);
  EXPECT_EQ(schedule_factor(Scheduler::kLinear, 0, 0, 20), 1.0);
}

TEST(Schedule, CosineFallsToZeroInAHalfWave) {
  EXPECT_NEAR(schedule_factor(Scheduler::kCosine, 12, 4, 20), 0.5, 1e-15);
  EXPECT_DOUBLE_EQ(schedule_factor(Scheduler::kCosine, 8, 4, 20), 0.5 * (1 + std::cos(std::numbers::pi / 4)));
  EXPECT_NEAR(schedule_factor(Scheduler::kCosine, 20, 4, 20), 0.0, 1e-15);
}

TEST(Schedule, ConstantStays) {
  EXPECT_EQ(schedule_factor(Scheduler::kConstantWithWarmup, 19, 4, 20), 1.0);
  EXPECT_EQ(schedule_factor(Scheduler::kConstant, 19, 4, 20), 1.0);
}

TEST(Schedule, WarmUpIsGivenInStepsOrAsAShareRoundedUp) {
  TrainOptions options;
  EXPECT_EQ(warmup_steps(options, 100), 0);
  options.warmup_ratio = 0.03;
  EXPECT_EQ(warmup_steps(options, 101), 4);
  options.warmup_steps = 7;
  EXPECT_EQ(warmup_steps(options, 101), 7);
}

TEST(Schedule, MoreWarmUpThanStepsNeverDividesByZero) {
  EXPECT_EQ(schedule_factor(Scheduler::kLinear, 5, 10, 5), 0.5);
  EXPECT_EQ(schedule_factor(Scheduler::kCosine, 5, 5, 5), 1.0);
}

}  // namespace
}  // namespace qlora
