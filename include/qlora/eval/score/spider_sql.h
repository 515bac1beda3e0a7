// Spider's dialect of SQL: its tokens and its parse into clauses, with the limits of the official process_sql.py.
//
// What the official parser cannot read is an error here too: aliases of columns, joins other than JOIN (no comma, no
// LEFT), HAVING without GROUP BY, several expressions in an aggregate, CASE, functions, operators without white space
// around them, more than one level of arithmetic. And what it reads and ignores is ignored: everything after the
// statement it knows, OFFSET after LIMIT, all sort directions but the last.
#pragma once

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "qlora/eval/score/spider_schema.h"

namespace qlora {

// A query outside the dialect. Not an Error of the program: a prediction may be anything.
class SpiderSyntaxError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

enum class Aggregate : int { kNone, kMax, kMin, kCount, kSum, kAvg };
enum class Arithmetic : int { kNone, kMinus, kPlus, kTimes, kDivide };
enum class Comparison : int {
  kNot,
  kBetween,
  kEqual,
  kGreater,
  kLess,
  kGreaterEqual,
  kLessEqual,
  kNotEqual,
  kIn,
  kLike,
  kIs,
  kExists
};
enum class Connector : int { kAnd, kOr };

// max(DISTINCT t.c): column is "table.column", or "*". distinct is empty where a comparison shall ignore it.
struct ColumnUnit {
  Aggregate aggregate = Aggregate::kNone;
  std::string column;
  std::optional<bool> distinct = false;
  bool operator==(const ColumnUnit&) const = default;
};

// left, or left OP right.
struct ValueUnit {
  Arithmetic op = Arithmetic::kNone;
  ColumnUnit left;
  std::optional<ColumnUnit> right;
  bool operator==(const ValueUnit&) const = default;
};

struct SpiderQuery;

// A subquery; compared by what it says, not by address; never changed, so that copies may share it.
struct Subquery {
  std::shared_ptr<const SpiderQuery> query;
  bool operator==(const Subquery& other) const;
};

// monostate: no value, or one that a comparison shall ignore. A string keeps its quotes (always ").
using SpiderValue = std::variant<std::monostate, double, std::string, ColumnUnit, Subquery>;

struct Condition {
  bool negated = false;
  Comparison op = Comparison::kEqual;
  ValueUnit unit;
  SpiderValue first;
  SpiderValue second;  // BETWEEN alone
  bool operator==(const Condition&) const = default;
};

// Conditions and connectors as they were written. The official evaluator takes every second element for a condition,
// whatever stands between: kept as a list, so that odd input is scored alike.
using ConditionList = std::vector<std::variant<Condition, Connector>>;

struct SelectItem {
  Aggregate aggregate = Aggregate::kNone;
  ValueUnit unit;
  bool operator==(const SelectItem&) const = default;
};

using TableUnit = std::variant<std::string, Subquery>;

struct SpiderQuery {
  std::optional<bool> distinct = false;
  std::vector<SelectItem> select;
  std::vector<TableUnit> tables;
  ConditionList joins;  // all ON conditions, tied by AND
  ConditionList where;
  std::vector<ColumnUnit> group_by;
  ConditionList having;
  bool descending = false;
  std::vector<ValueUnit> order_by;
  std::optional<long long> limit;
  std::optional<Subquery> intersect;
  std::optional<Subquery> unite;
  std::optional<Subquery> except;
  bool operator==(const SpiderQuery&) const = default;
};

// The elements at even places of a list, which count as its conditions.
std::vector<const Condition*> conditions_of(const ConditionList& list);
// How often OR stands at an odd place.
int count_or(const ConditionList& list);

// Tokens in lower case; a quoted string is one token with its case kept and " around it. Throws SpiderSyntaxError at
// an odd number of quotes.
std::vector<std::string> tokenize_spider_sql(std::string_view sql);

// Throws SpiderSyntaxError, saying at which token.
SpiderQuery parse_spider_sql(std::string_view sql, const SpiderSchema& schema);

}  // namespace qlora
