#include "qlora/eval/task_scores.h"

#include <algorithm>

#include <spdlog/fmt/fmt.h>

#include "qlora/core/error.h"
#include "qlora/eval/generate_task.h"
#include "qlora/eval/score/text_metric.h"
#include "qlora/eval/spider_task.h"

namespace qlora {
namespace {

const std::vector<std::string>& perplexity_scores() {
  static const std::vector<std::string> names = {"nll", "loss", "perplexity"};
  return names;
}

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

void check_required(const RequiredScore& required, const std::vector<std::string>& tasks) {
  if (!contains(tasks, required.task)) {
    throw UsageError(fmt::format("require: the task '{}' is not scored here; `tasks` has: {}", required.task,
                                 fmt::join(tasks, ", ")));
  }
  const auto names = score_names(required.task);
  if (!contains(names, required.score)) {
    throw UsageError(fmt::format("require: the task '{}' has no score '{}'; it has: {}", required.task, required.score,
                                 names.empty() ? "none" : fmt::format("{}", fmt::join(names, ", "))));
  }
  if (lower_is_better(required.score)) {
    throw UsageError(fmt::format(
        "require: of {}.{} less is better, so a minimum says nothing; require scores of spider, mmlu or generate",
        required.task, required.score));
  }
}

}  // namespace

bool has_task(const EvalOptions& options, const std::string& task) {
  return contains(options.tasks, task);
}

bool needs_rows(const std::vector<std::string>& tasks) {
  return std::any_of(tasks.begin(), tasks.end(), [](const auto& task) { return task != "mmlu"; });
}

std::vector<std::string> score_names(const std::string& task) {
  if (task == "spider") return spider_score_names();
  if (task == "perplexity") return perplexity_scores();
  if (task == "generate") return text_score_names();
  if (task == "mmlu") return {"acc"};
  if (task == "ratings") return {"preferred"};
  return {};
}

bool lower_is_better(const std::string& score) {
  return contains(perplexity_scores(), score);
}

double best_score(const std::string& score) {
  for (const TextMetric& metric : text_metrics()) {
    if (metric.name == score) return metric.best;
  }
  return 1.0;
}

std::string evaluation_key(const TaskScore& score) {
  return fmt::format("eval_{}_{}", score.task, score.score);
}

std::optional<TaskScore> task_score_of(const std::string& metric, const std::vector<std::string>& tasks) {
  for (const std::string& task : tasks) {
    for (const std::string& score : score_names(task)) {
      const std::string key = evaluation_key({task, score});
      if (key == metric || key == "eval_" + metric) return TaskScore{task, score};
    }
  }
  return std::nullopt;
}

std::string per_row_task(const std::string& path) {
  return path.ends_with(".jsonl") ? "perplexity" : "spider";
}

void check_eval_options(const EvalOptions& options) {
  std::vector<std::string> tasks = options.tasks;
  if (!options.ratings.empty()) tasks.emplace_back("ratings");
  for (const auto& required : options.require) check_required(required, tasks);
  if (options.per_row.empty() || contains(options.tasks, per_row_task(options.per_row))) return;
  throw UsageError(
      fmt::format("per_row: {} would be of the task {}, which is not in `tasks`; a .jsonl is of perplexity, any other "
                  "file of spider, and what `generate` says stands in predictions.jsonl",
                  options.per_row, per_row_task(options.per_row)));
}

}  // namespace qlora
