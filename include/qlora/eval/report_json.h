// report.json, predictions.jsonl and the check of required scores.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "qlora/eval/options.h"
#include "qlora/eval/results.h"

namespace qlora {

// {"runs": {NAME: {"adapter", "tasks": {task: {"n", "overall": {score: value}, "by": {group: {"n", score: value}},
//   "by_database" | "by_subject": {id: {"n", score: value}}, "raw" | "extracted": {score: value}, ...details}}}},
//  "paired": {NAME: {task: {score: {"base", "tuned", "wins", "losses", "ties", "p_value", "interval": [low, high],
//   "by": {group: the same}}}}},
//  "paired_with": the run that the others are paired with, or null,
//  "seconds", "output_tokens_per_second"}. Scores are shares in [0, 1], but for bleu and chrf (0 to 100) and those of
//  perplexity. `paired` compares each run with results.base. The bootstrap's numbers follow from `seed`. Throws
//  DataError where runs to pair are of different rows.
Json report_json(const EvalResults& results, uint64_t seed);

// One line a row and run: run, task, id, prompt, prediction, extracted, gold, question, db_id, group, each score, and
// error where there is one. Written atomically. Text that is no UTF-8 has its broken bytes replaced.
void write_predictions(const EvalResults& results, const std::filesystem::path& path);

// A line a row and run, of the task that per_row_task names for `path`. spider: index, hardness, parsed, exact,
// execution (0 or 1), with a header line, tabs between. perplexity: JSON lines {"id", "nll", "tokens"}, nll the sum
// over so many labelled tokens. Where there are several runs, each line says its `run`, too: the last column, or a
// further key.
std::string per_row_text(const EvalResults& results, const std::string& path);

// What of the required scores is missed, in words; empty where all are met. Every run but the base must meet them
// (the base, where it is alone). `required` has passed check_eval_options.
std::vector<std::string> missed_scores(const EvalResults& results, const std::vector<RequiredScore>& required);

}  // namespace qlora
