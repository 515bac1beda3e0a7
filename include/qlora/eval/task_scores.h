// What each task can score, known before anything is loaded, and the checks of options that follow from it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "qlora/eval/options.h"

namespace qlora {

bool has_task(const EvalOptions& options, const std::string& task);

// Whether some task is over the rows of eval_dataset: all but mmlu, which brings its own questions.
bool needs_rows(const std::vector<std::string>& tasks);

// The names of a task's scores; those of `generate` are there where rows carry an answer.
std::vector<std::string> score_names(const std::string& task);

// nll, loss and perplexity: plain numbers, of which less is better.
bool lower_is_better(const std::string& score);

// What a perfect answer scores, where more is better: 100 for what is counted in points (bleu, chrf), else 1.
double best_score(const std::string& score);

struct TaskScore {
  std::string task, score;
};

// How an evaluation during training names a score: "eval_spider_execution".
std::string evaluation_key(const TaskScore& score);

// The score of one of `tasks` that `metric` names, with or without its "eval_"; nullopt where there is none.
std::optional<TaskScore> task_score_of(const std::string& metric, const std::vector<std::string>& tasks);

// The task whose rows --per_row writes to a file of this name: perplexity for .jsonl, else spider.
std::string per_row_task(const std::string& path);

// Throws UsageError for a `require` of a task that is not run, of a score that the task does not have, or of one where
// less is better (a minimum says nothing of it); and for a `per_row` whose task is not run.
void check_eval_options(const EvalOptions& options);

}  // namespace qlora
