// The task `generate`: answers, and the scores of text_metrics() where rows carry the answer that was wanted.
#pragma once

#include <string>
#include <vector>

#include "qlora/eval/results.h"

namespace qlora {

// The names of text_metrics().
const std::vector<std::string>& text_score_names();

// Scores `prediction` of each row against its `gold`. Rows without gold have no scores; where no row has one, the task
// has none. details["n_scored"]: the rows that have.
TaskResult score_answers(std::vector<EvalRow> rows);

}  // namespace qlora
