// Scores as people read them: shares in percent, points and losses as plain numbers.
#pragma once

#include <string>

#include "qlora/core/json.h"

namespace qlora {

// "61.50 %", "27.31" for points (bleu, chrf), "2.354" for nll, loss and perplexity; "-" where the value is no number.
std::string score_text(const std::string& score, const Json& value);

// A difference with its sign; of shares in percentage points.
std::string change_text(const std::string& score, double difference);

}  // namespace qlora
