// Two runs over the same rows: who won where, and whether that may be chance.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "qlora/eval/results.h"

namespace qlora {

struct PairedScore {
  double base = 0.0;  // over all rows
  double tuned = 0.0;
  size_t wins = 0;  // rows where the tuned run scores better
  size_t losses = 0;
  size_t ties = 0;
  double p_value = 1.0;                      // exact McNemar
  std::array<double, 2> interval{0.0, 0.0};  // of tuned - base: 95 %, percentile bootstrap over rows
};

// Two-sided exact McNemar test (for scores that are no 0 or 1: the sign test): 2 sum_{k <= min(wins, losses)}
// C(n, k) / 2^n with n = wins + losses, at most 1; 1 for n = 0. Summed in log space.
double mcnemar_p_value(size_t wins, size_t losses);

// 2.5 % and 97.5 % quantiles of the mean of `differences` over resampled rows. The same for the same seed.
std::array<double, 2> bootstrap_interval(std::span<const double> differences, uint64_t seed, size_t resamples = 2000);

// Scores of the same rows, in the same order; `lower_wins`: less is better. Throws DataError for different lengths.
PairedScore compare_paired(std::span<const double> base, std::span<const double> tuned, uint64_t seed,
                           bool lower_wins = false);

// Score `score` of two results over the same rows, over those of one group where named. One that is no mean of rows is
// taken anew from the counts of the rows drawn; wins and losses are of the rows' own scores.
PairedScore compare_tasks(const TaskResult& base, const TaskResult& tuned, size_t score, const std::string& group,
                          uint64_t seed);

// A row whose score became better or worse, by its place in both.
struct FlippedRow {
  size_t row = 0;
  bool won = false;
};
std::vector<FlippedRow> flipped_rows(const TaskResult& base, const TaskResult& tuned, size_t score);

// Throws DataError, naming the first row that differs, where both are not of the same questions.
void check_same_rows(const TaskResult& base, const TaskResult& tuned);

}  // namespace qlora
