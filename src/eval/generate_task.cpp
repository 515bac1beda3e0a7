#include "qlora/eval/generate_task.h"

#include <algorithm>

#include "qlora/core/parallel.h"
#include "qlora/eval/score/text_metric.h"

namespace qlora {
namespace {

void score_row(EvalRow& row) {
  for (const TextMetric& metric : text_metrics()) {
    const auto counts = metric.counts(row.prediction, row.gold);
    row.scores.push_back(metric.row(counts));
    row.counts.push_back(metric.corpus == nullptr ? std::vector<double>() : counts);
  }
}

}  // namespace

const std::vector<std::string>& text_score_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (const TextMetric& metric : text_metrics()) all.emplace_back(metric.name);
    return all;
  }();
  return names;
}

TaskResult score_answers(std::vector<EvalRow> rows) {
  TaskResult task;
  task.task = "generate";
  parallel_for(static_cast<std::int64_t>(rows.size()), 8, [&](std::int64_t begin, std::int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      if (!rows[i].gold.empty()) score_row(rows[i]);
    }
  });
  const auto scored = std::count_if(rows.begin(), rows.end(), [](const EvalRow& row) { return !row.scores.empty(); });
  task.rows = std::move(rows);
  if (scored == 0) return task;
  task.scores = text_score_names();
  for (const TextMetric& metric : text_metrics()) task.corpus.push_back(metric.corpus);
  task.details["n_scored"] = scored;
  return task;
}

}  // namespace qlora
