// The task `spider`: every score of predicted SQL against gold SQL.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "qlora/eval/options.h"
#include "qlora/eval/results.h"
#include "qlora/eval/score/spider_match.h"
#include "qlora/eval/score/sql_sandbox.h"

namespace qlora {

struct SpiderQuestion {
  Json id;
  std::string database;  // db_id
  std::string gold;
  std::string question;
  std::string prompt;
};

// parsed, exact, execution, exact_string, exact_normalized, token_match, syntax_valid, exact_with_values (exact, where
// the values of conditions are equal, too), answer_only (no kAnswerPartNames: nothing but SQL).
const std::vector<std::string>& spider_score_names();

// Scores answers to questions about databases. Make one before the process is large (it forks its workers then) and
// use it for every run.
class SpiderScorer {
 public:
  // tables: tables.json, for foreign keys, and for the schema of a database that is absent (then nothing can be
  // executed: execution and syntax_valid are 0). db_dir: <db_id>/<db_id>.sqlite. Where further .sqlite files lie beside
  // it (the same schema with other rows, as the test suites have them), execution counts where it is right on all.
  // plug_values: as ExecutionJob has it.
  SpiderScorer(const std::filesystem::path& tables, std::filesystem::path db_dir, SandboxLimits limits,
               bool plug_values = false);

  // One answer a question. `extract` says which reading of it makes the scores; the other one's stand in other_scores.
  // A gold outside of Spider's dialect is counted in details["gold_not_parsed"] and taken as extra hard, one that does
  // not run in details["gold_not_executed"]; both score 0 there. details["partial"] has the clauses' accuracy, recall
  // and F1 as the official evaluator sums them, over all rows and "by" level. details["answers"] counts the raw answers
  // that are "sql_alone", and those that have each of kAnswerPartNames; a row's details say "has" which, and
  // the first rows of gold ("gold_result") and answer ("result", where it differs). Throws DataError for a db_id that
  // tables.json does not know.
  TaskResult score(const std::vector<SpiderQuestion>& questions, const std::vector<std::string>& answers,
                   Extract extract, const std::function<void(size_t)>& on_done = {});

 private:
  struct Database;
  struct Item;  // a question on its way
  const Database& database(const std::string& id);
  Item prepare(const SpiderQuestion& question, const std::string& answer);
  void execute(std::vector<Item>& items, const std::function<void(size_t)>& on_done);

  std::filesystem::path tables_, db_dir_;
  std::map<std::string, SpiderDatabase> known_;
  std::map<std::string, std::shared_ptr<Database>> databases_;
  SqlSandbox sandbox_;
  bool plug_values_;
};

// Whether each database was seen in training: adds details["seen"] and details["unseen"] with "n" and each score.
void add_seen_unseen(TaskResult& task, const std::vector<std::string>& training_databases);

}  // namespace qlora
