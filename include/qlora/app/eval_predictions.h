// `qlora eval` without a model: files of predictions against gold SQL; and what every evaluation ends with.
#pragma once

#include <vector>

#include "qlora/app/options.h"
#include "qlora/data/dataset.h"
#include "qlora/eval/results.h"
#include "qlora/eval/spider_task.h"

namespace qlora {

// Where a Spider-like set lies.
struct SpiderPlaces {
  std::string tables;  // tables.json
  std::string db_dir;  // <db_id>/<db_id>.sqlite
};

// `tables` and `db_dir` as given, else tables.json and database/ beside the evaluation set or the gold file. Throws
// UsageError where there are none.
SpiderPlaces find_spider_places(const EvalJob& job);

// The questions of a run: --gold lines, else `rows` (may be null), after `offset`, `limit` of them. Empty where there
// is neither. Texts of questions come from the rows where both are given and of equal length.
std::vector<SpiderQuestion> read_spider_questions(const EvalJob& job, const Dataset* rows);

SandboxLimits sandbox_limits(const EvalOptions& options);

// Scores job.eval.predictions and ends as finish_eval does. Several runs are paired with the one named `base`; of
// several files, or with job.eval.baseline, with the first where none is named so. Throws DataError where predictions
// and gold differ in number.
int run_eval_predictions(const EvalJob& job);

// Prints what --dry_run found to stdout: {"rows", "runs": [{"name", "adapter", ...}], "tasks"} with --json, else in
// words; `seconds`: estimated, null where nobody knows. `runs`: the entries of "runs"; `rows`: of eval_dataset, or of
// the task mmlu where it is the only one. Returns 0.
int print_eval_plan(const EvalJob& job, size_t rows, const Json& runs, const std::optional<Json>& seconds = {});

// Adds --ratings to the results. Writes report.json, report.html and predictions.jsonl into output_dir (none where it
// is empty) and --per_row and --blind, all of them aside before the first is put in its place, so that a full disk
// leaves an earlier report whole. Then prints the table, or with --json report.json's object, and says what of
// --require is missed: 7 then, else 0.
int finish_eval(const EvalJob& job, EvalResults results);

}  // namespace qlora
