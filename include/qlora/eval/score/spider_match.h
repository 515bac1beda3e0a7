// The official exact set match, its partial scores, and the hardness levels.
#pragma once

#include <array>
#include <string_view>

#include "qlora/eval/score/spider_sql.h"

namespace qlora {

enum class Hardness : int { kEasy, kMedium, kHard, kExtra };
inline constexpr std::array<std::string_view, 4> kHardnessNames = {"easy", "medium", "hard", "extra"};

// By how many components a query has (WHERE, GROUP BY, ORDER BY, LIMIT, joins, OR, LIKE; set operations and nested
// queries; and more than one aggregate, selected column, condition, grouping).
Hardness hardness_of(const SpiderQuery& query);

// Counts of one clause: of the gold, of the prediction, of what both have.
struct PartialScore {
  int gold_total = 0;
  int predicted_total = 0;
  bool matched = false;  // totals equal and all found: accuracy, recall and F1 are then 1, else 0
};

inline constexpr std::array<std::string_view, 10> kPartialNames = {
    "select", "select(no AGG)", "where",  "where(no OP)", "group(no Having)",
    "group",  "order",          "and/or", "IUEN",         "keywords"};

struct ExactMatch {
  bool exact = false;
  std::array<PartialScore, 10> partial;  // in the order of kPartialNames
};

// The values of conditions: ignored as the published scores have it, or compared (the official DISABLE_VALUE = False).
enum class ConditionValues { kIgnored, kCompared };

// DISTINCT is ignored outside of nested queries, columns tied by foreign keys are the same column where their tables
// are in FROM. The schema is the one both were parsed against.
ExactMatch match_exactly(SpiderQuery gold, SpiderQuery predicted, const SpiderSchema& schema,
                         const ForeignKeyMap& foreign_keys, ConditionValues values = ConditionValues::kIgnored);

// What stands for a prediction that cannot be parsed: it has no clause, so it matches nothing, and it counts in the
// partial scores.
SpiderQuery unparsed_query();

}  // namespace qlora
