// The config keys of evaluation.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "qlora/core/schema_fwd.h"

namespace qlora {

enum class Extract { kNone, kSql };

// `task.score:minimum`, as in spider.execution:0.6
struct RequiredScore {
  std::string task;
  std::string score;
  double minimum = 0.0;
};

struct EvalOptions {
  std::vector<std::string> adapter;  // folders, over one loaded base
  std::vector<std::string> tasks;    // spider | perplexity | mmlu | generate
  bool baseline = false;             // score the bare base, too, and pair the results
  std::optional<int64_t> limit;      // rows of eval_dataset, after `offset`
  int64_t offset = 0;
  Extract extract = Extract::kNone;
  double sql_timeout = 30.0;  // seconds a query
  bool plug_value = false;
  std::vector<std::string> predictions;  // score these files without a model; several: side by side
  std::string gold;                      // lines SQL\tdb_id
  std::string per_row;                   // write a line a row to this file
  std::string blind;                     // write the answers of two runs to this file, for people to judge
  std::string ratings;                   // such a file, judged
  std::vector<RequiredScore> require;
  std::string mmlu_dir;
  std::optional<int64_t> mmlu_limit;
  std::optional<int64_t> stride;  // perplexity: tokens from the beginning of a window to that of the next one
};

void declare(Schema<EvalOptions>& schema);

}  // namespace qlora
