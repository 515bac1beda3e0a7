// report.html of a training run.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "qlora/core/json.h"

namespace qlora {

// `lines`: those of metrics.jsonl. Curves of loss, scores, learning rate, gradient norm and speed, the evaluations as a
// table, and `facts` (names and values) above them. One file, no scripts, no network.
std::string train_report(const std::string& title, const std::vector<std::pair<std::string, std::string>>& facts,
                         const std::vector<Json>& lines);

}  // namespace qlora
