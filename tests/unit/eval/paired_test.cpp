#include "qlora/eval/paired.h"

#include <gtest/gtest.h>

#include "qlora/core/error.h"

namespace qlora {
namespace {

TEST(Paired, McNemarIsTheTwoSidedBinomial) {
  EXPECT_DOUBLE_EQ(mcnemar_p_value(0, 0), 1.0);
  EXPECT_DOUBLE_EQ(mcnemar_p_value(5, 5), 1.0);
  EXPECT_NEAR(mcnemar_p_value(1, 0), 1.0, 1e-12);
  EXPECT_NEAR(mcnemar_p_value(6, 0), 2.0 / 64, 1e-12);
  EXPECT_NEAR(mcnemar_p_value(2, 8), 2.0 * (1 + 10 + 45) / 1024, 1e-12);
  EXPECT_DOUBLE_EQ(mcnemar_p_value(8, 2), mcnemar_p_value(2, 8));
  // Where 2^n has no double any more.
  const double p = mcnemar_p_value(1100, 900);
  EXPECT_GT(p, 7e-6);
  EXPECT_LT(p, 9e-6);
  EXPECT_GT(mcnemar_p_value(3000, 0), -1.0);
  EXPECT_LT(mcnemar_p_value(3000, 0), 1e-300);
}

TEST(Paired, CountsWinsLossesAndTies) {
  const std::vector<double> base = {0, 0, 1, 1, 0.5};
  const std::vector<double> tuned = {1, 1, 1, 0, 0.5};
  const PairedScore p = compare_paired(base, tuned, 1);
  EXPECT_EQ(p.wins, 2u);
  EXPECT_EQ(p.losses, 1u);
  EXPECT_EQ(p.ties, 2u);
  EXPECT_DOUBLE_EQ(p.base, 0.5);
  EXPECT_DOUBLE_EQ(p.tuned, 0.7);
  EXPECT_THROW(compare_paired(base, std::vector<double>{1}, 1), DataError);
  const PairedScore lower = compare_paired(base, tuned, 1, /*lower_wins=*/true);
  EXPECT_EQ(lower.wins, 1u);
  EXPECT_EQ(lower.losses, 2u);
  EXPECT_EQ(lower.p_value, p.p_value);
  EXPECT_EQ(lower.interval, p.interval);
}

TEST(Paired, BootstrapIntervalIsSeededAndCoversTheMean) {
  std::vector<double> differences(400, 0.0);
  for (size_t i = 0; i < 100; ++i) differences[i] = 1.0;
  const auto interval = bootstrap_interval(differences, 7);
  EXPECT_EQ(interval, bootstrap_interval(differences, 7));
  EXPECT_NE(interval, bootstrap_interval(differences, 8));
  // Normal approximation: 0.25 +- 1.96 sqrt(0.25 * 0.75 / 400)
  EXPECT_NEAR(interval[0], 0.25 - 0.0424, 0.01);
  EXPECT_NEAR(interval[1], 0.25 + 0.0424, 0.01);
  EXPECT_EQ(bootstrap_interval({}, 1), (std::array<double, 2>{0.0, 0.0}));
  EXPECT_EQ(bootstrap_interval(std::vector<double>(9, 0.0), 1), (std::array<double, 2>{0.0, 0.0}));
}

TaskResult task_of(std::vector<double> scores) {
  TaskResult task;
  task.task = "spider";
  task.scores = {"execution"};
  for (double score : scores) {
    EvalRow row;
    row.id = task.rows.size();
    row.gold = "g";
    row.scores = {score};
    task.rows.push_back(row);
  }
  return task;
}

TEST(Paired, FlippedRows) {
  const auto flipped = flipped_rows(task_of({0, 1, 1}), task_of({1, 1, 0}), 0);
  ASSERT_EQ(flipped.size(), 2u);
  EXPECT_TRUE(flipped[0].won);
  EXPECT_EQ(flipped[1].row, 2u);
  EXPECT_FALSE(flipped[1].won);
  TaskResult before = task_of({2.0}), after = task_of({1.5});
  before.scores = after.scores = {"nll"};
  EXPECT_TRUE(flipped_rows(before, after, 0).at(0).won);
}

TEST(Paired, RowsThatDifferCannotBePaired) {
  TaskResult other = task_of({0, 1});
  EXPECT_NO_THROW(check_same_rows(task_of({0, 1}), other));
  EXPECT_THROW(check_same_rows(task_of({0}), other), DataError);
  other.rows[1].gold = "h";
  EXPECT_THROW(check_same_rows(task_of({0, 1}), other), DataError);
}

}  // namespace
}  // namespace qlora
