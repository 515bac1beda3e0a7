#include "qlora/eval/results.h"

#include <algorithm>

namespace qlora {

CorpusScore corpus_score(const TaskResult& task, size_t index) {
  return index < task.corpus.size() ? task.corpus[index] : nullptr;
}

std::optional<double> score_over_rows(const TaskResult& task, size_t index, const std::string& group,
                                      const std::string& part) {
  const CorpusScore corpus = corpus_score(task, index);
  std::vector<double> sums(1, 0.0);
  size_t count = 0;
  for (const auto& row : task.rows) {
    if (row.scores.empty()) continue;
    if ((!group.empty() && row.group != group) || (!part.empty() && row.part != part)) continue;
    ++count;
    const std::vector<double> counts = corpus == nullptr ? std::vector{row.scores.at(index)} : row.counts.at(index);
    sums.resize(counts.size(), 0.0);
    for (size_t i = 0; i < counts.size(); ++i) sums[i] += counts[i];
  }
  if (count == 0) return std::nullopt;
  return corpus == nullptr ? sums[0] / static_cast<double>(count) : corpus(sums);
}

const TaskResult* find_task(const EvalRun& run, const std::string& task) {
  const auto found =
      std::find_if(run.tasks.begin(), run.tasks.end(), [&](const TaskResult& t) { return t.task == task; });
  return found == run.tasks.end() ? nullptr : &*found;
}

const EvalRun* find_base(const EvalResults& results) {
  const auto found = std::find_if(results.runs.begin(), results.runs.end(),
                                  [&](const EvalRun& run) { return run.name == results.base; });
  return found == results.runs.end() ? nullptr : &*found;
}

}  // namespace qlora
