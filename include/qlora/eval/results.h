// What an evaluation found: a score a row, for each task of each run. All reports are made from this.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "qlora/core/json.h"

namespace qlora {

// A score that follows from what its rows count, summed over them.
using CorpusScore = double (*)(std::span<const double> sums);

struct EvalRow {
  Json id;
  std::string prompt;      // what the model was given; empty where a file was scored
  std::string prediction;  // the answer, not stripped
  std::string extracted;   // the SQL in it, by extract_sql
  std::string gold;
  std::string question;
  std::string part;                         // as TaskResult::part_name says: the database, the subject
  std::string group;                        // the level (easy .. extra), the group of subjects
  std::string error;                        // why it scored nothing, in words
  std::vector<double> scores;               // in the order of TaskResult::scores; empty for a row that has none
  std::vector<std::vector<double>> counts;  // of each score that TaskResult::corpus has
  std::vector<double> other_scores;         // with the other of raw and extracted answer; may be empty
  double nll = 0.0;                         // perplexity: the sum over the labelled tokens
  int64_t tokens = 0;                       // of so many
  Json details = Json::object();            // further keys for the row's line in predictions.jsonl
};

struct TaskResult {
  std::string task;                       // spider, generate, ...
  std::vector<std::string> scores;        // their names
  std::vector<CorpusScore> corpus;        // by score; nullptr, or an empty list: the mean of the rows' scores
  std::vector<std::string> groups;        // in the order of reports; a row's group is one of them
  std::string part_name = "database";     // what EvalRow::part is
  std::vector<EvalRow> rows;              // in the file's order: what is paired by place
  std::string other_name;                 // "extracted" or "raw": what other_scores are of
  std::map<std::string, double> overall;  // scores that are no means of rows (perplexity), by name
  Json details = Json::object();          // further keys for the task's entry in report.json
};

struct EvalRun {
  std::string name;     // `base`, the adapter folder's name, `predictions`
  std::string adapter;  // its folder; empty for none
  std::vector<TaskResult> tasks;
  std::string predictions = {};  // the file that its answers were read from; empty for none
};

struct EvalResults {
  std::vector<EvalRun> runs;
  std::string base = "base";  // the others are paired with the run of this name, where there is one
  double seconds = 0.0;
  std::optional<double> output_tokens_per_second;
};

// Score `index` over the rows that have scores, over those of one group or part where named: their mean, or what their
// summed counts give. nullopt without such rows.
std::optional<double> score_over_rows(const TaskResult& task, size_t index, const std::string& group = "",
                                      const std::string& part = "");

// nullptr where score `index` is the mean of the rows' scores.
CorpusScore corpus_score(const TaskResult& task, size_t index);

// nullptr where the run has no such task.
const TaskResult* find_task(const EvalRun& run, const std::string& task);
const EvalRun* find_base(const EvalResults& results);

}  // namespace qlora
