#include "qlora/eval/paired.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include <spdlog/fmt/fmt.h>

#include "qlora/core/error.h"
#include "qlora/data/random.h"
#include "qlora/eval/task_scores.h"

namespace qlora {
namespace {

double mean(std::span<const double> values) {
  return values.empty() ? 0.0 : std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double log_choose(double n, double k) {
  return std::lgamma(n + 1) - std::lgamma(k + 1) - std::lgamma(n - k + 1);
}

// Linear between the two nearest of sorted values.
double quantile(const std::vector<double>& sorted, double share) {
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto low = static_cast<size_t>(place);
  const size_t high = std::min(low + 1, sorted.size() - 1);
  return sorted[low] + (place - static_cast<double>(low)) * (sorted[high] - sorted[low]);
}

// 2.5 % and 97.5 % quantiles of statistic(rows drawn) over draws of `rows` rows with replacement.
template <class Statistic>
std::array<double, 2> resample(size_t rows, uint64_t seed, size_t resamples, const Statistic& statistic) {
  if (rows == 0) return {0.0, 0.0};
  auto generator = seeded_generator(seed, 0x626f6f74);
  std::vector<size_t> drawn(rows);
  std::vector<double> values(resamples);
  for (auto& value : values) {
    for (auto& row : drawn) row = random_below(generator, rows);
    value = statistic(drawn);
  }
  std::sort(values.begin(), values.end());
  return {quantile(values, 0.025), quantile(values, 0.975)};
}

// Of the rows of a group that have scores.
struct Column {
  std::vector<double> scores;
  std::vector<double> counts;  // a row's after another's, `width` each; none where the score is a mean
  size_t width = 0;
};

Column column_of(const TaskResult& task, size_t score, const std::string& group) {
  Column column;
  for (const auto& row : task.rows) {
    if (row.scores.empty() || (!group.empty() && row.group != group)) continue;
    column.scores.push_back(row.scores.at(score));
    if (corpus_score(task, score) == nullptr) continue;
    column.width = row.counts.at(score).size();
    column.counts.insert(column.counts.end(), row.counts[score].begin(), row.counts[score].end());
  }
  return column;
}

double score_of(const Column& column, CorpusScore corpus, std::span<const size_t> rows) {
  std::vector<double> sums(column.width, 0.0);
  for (const size_t row : rows) {
    const double* counts = &column.counts[row * column.width];
    for (size_t i = 0; i < sums.size(); ++i) sums[i] += counts[i];
  }
  return corpus(sums);
}

}  // namespace

double mcnemar_p_value(size_t wins, size_t losses) {
  const auto n = static_cast<double>(wins + losses);
  const size_t fewer = std::min(wins, losses);
  if (wins == losses) return 1.0;
  // The largest term of the sum is the last.
  const double largest = log_choose(n, static_cast<double>(fewer));
  double sum = 0.0;
  for (size_t k = 0; k <= fewer; ++k) sum += std::exp(log_choose(n, static_cast<double>(k)) - largest);
  return std::min(1.0, std::exp(largest + std::log(sum) - (n - 1) * std::log(2.0)));
}

std::array<double, 2> bootstrap_interval(std::span<const double> differences, uint64_t seed, size_t resamples) {
  return resample(differences.size(), seed, resamples, [&](std::span<const size_t> rows) {
    double sum = 0.0;
    for (const size_t row : rows) sum += differences[row];
    return sum / static_cast<double>(rows.size());
  });
}

PairedScore compare_paired(std::span<const double> base, std::span<const double> tuned, uint64_t seed,
                           bool lower_wins) {
  if (base.size() != tuned.size()) {
    throw DataError(
        fmt::format("cannot pair {} rows with {}: score the same rows with both", base.size(), tuned.size()));
  }
  PairedScore paired;
  paired.base = mean(base);
  paired.tuned = mean(tuned);
  std::vector<double> differences(base.size());
  for (size_t i = 0; i < base.size(); ++i) {
    differences[i] = tuned[i] - base[i];
    ++(differences[i] > 0 ? paired.wins : differences[i] < 0 ? paired.losses : paired.ties);
  }
  if (lower_wins) std::swap(paired.wins, paired.losses);
  paired.p_value = mcnemar_p_value(paired.wins, paired.losses);
  paired.interval = bootstrap_interval(differences, seed);
  return paired;
}

PairedScore compare_tasks(const TaskResult& base, const TaskResult& tuned, size_t score, const std::string& group,
                          uint64_t seed) {
  constexpr size_t kResamples = 2000;
  const Column before = column_of(base, score, group);
  const Column after = column_of(tuned, score, group);
  const CorpusScore corpus = corpus_score(tuned, score);
  PairedScore paired = compare_paired(before.scores, after.scores, seed, lower_is_better(tuned.scores.at(score)));
  if (corpus == nullptr || before.scores.empty()) return paired;
  paired.base = score_over_rows(base, score, group).value_or(0.0);
  paired.tuned = score_over_rows(tuned, score, group).value_or(0.0);
  paired.interval = resample(before.scores.size(), seed, kResamples, [&](std::span<const size_t> rows) {
    return score_of(after, corpus, rows) - score_of(before, corpus, rows);
  });
  return paired;
}

std::vector<FlippedRow> flipped_rows(const TaskResult& base, const TaskResult& tuned, size_t score) {
  std::vector<FlippedRow> flipped;
  for (size_t i = 0; i < std::min(base.rows.size(), tuned.rows.size()); ++i) {
    if (base.rows[i].scores.empty() || tuned.rows[i].scores.empty()) continue;
    const double change = tuned.rows[i].scores.at(score) - base.rows[i].scores.at(score);
    if (change != 0) flipped.push_back({i, (change > 0) != lower_is_better(tuned.scores[score])});
  }
  return flipped;
}

void check_same_rows(const TaskResult& base, const TaskResult& tuned) {
  if (base.rows.size() != tuned.rows.size()) {
    throw DataError(fmt::format("task {}: one run has {} rows, the other {}; they cannot be paired", base.task,
                                base.rows.size(), tuned.rows.size()));
  }
  for (size_t i = 0; i < base.rows.size(); ++i) {
    if (base.rows[i].gold == tuned.rows[i].gold && base.rows[i].id == tuned.rows[i].id) continue;
    throw DataError(
        fmt::format("task {}: row {} is another question in the other run; they cannot be paired", base.task, i));
  }
}

}  // namespace qlora
