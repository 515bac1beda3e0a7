// Recursive descent over Spider's dialect. Every place where the official parser would raise is a SpiderSyntaxError.
#include <algorithm>
#include <array>
#include <charconv>
#include <map>

#include <spdlog/fmt/fmt.h>

#include "qlora/eval/score/spider_sql.h"

namespace qlora {
namespace {

constexpr int kMaxNesting = 200;  // the official parser runs into Python's recursion limit at about this depth

template <typename Enum, size_t kSize>
std::optional<Enum> find_name(const std::array<std::string_view, kSize>& names, const std::string& token) {
  const auto found = std::find(names.begin(), names.end(), token);
  if (found == names.end()) return std::nullopt;
  return static_cast<Enum>(found - names.begin());
}

// "none" is in the official lists of names too, so a column of that name cannot be read.
std::optional<Aggregate> aggregate_of(const std::string& token) {
  static constexpr std::array<std::string_view, 6> kNames = {"none", "max", "min", "count", "sum", "avg"};
  return find_name<Aggregate>(kNames, token);
}
std::optional<Arithmetic> arithmetic_of(const std::string& token) {
  static constexpr std::array<std::string_view, 5> kNames = {"none", "-", "+", "*", "/"};
  return find_name<Arithmetic>(kNames, token);
}
std::optional<Comparison> comparison_of(const std::string& token) {
  static constexpr std::array<std::string_view, 12> kNames = {
      "not", "between", "=", ">", "<", ">=", "<=", "!=", "in", "like", "is", "exists"};
  return find_name<Comparison>(kNames, token);
}
bool is_clause(const std::string& token) {
  static constexpr std::array<std::string_view, 9> kNames = {"select", "from",      "where", "group", "order",
                                                             "limit",  "intersect", "union", "except"};
  return std::find(kNames.begin(), kNames.end(), token) != kNames.end();
}
bool is_join_word(const std::string& token) {
  return token == "join" || token == "on" || token == "as";
}
bool ends_block(const std::string& token) {
  return token == ")" || token == ";";
}

// Python lets an underscore stand between two digits of a number. Empty where one stands elsewhere.
std::string without_digit_separators(const std::string& token) {
  std::string out;
  for (size_t i = 0; i < token.size(); ++i) {
    if (token[i] != '_') {
      out += token[i];
      continue;
    }
    const bool between = i > 0 && i + 1 < token.size() && std::isdigit(static_cast<unsigned char>(token[i - 1])) != 0 &&
                         std::isdigit(static_cast<unsigned char>(token[i + 1])) != 0;
    if (!between) return "";
  }
  return out;
}

template <typename Number>
std::optional<Number> number_of(const std::string& token) {
  const std::string text = without_digit_separators(token);
  const char* begin = text.c_str();
  const char* end = begin + text.size();
  if (begin != end && *begin == '+' && begin + 1 != end && begin[1] != '-') ++begin;
  Number value{};
  const auto [stop, error] = std::from_chars(begin, end, value);
  const bool outside = error == std::errc::result_out_of_range;  // Python's numbers have no such end
  if (begin == end || stop != end || (error != std::errc{} && !outside)) return std::nullopt;
  return value;
}

class Parser {
 public:
  Parser(const std::vector<std::string>& tokens, const SpiderSchema& schema) : tokens_(tokens), schema_(schema) {
    for (size_t i = 0; i < tokens_.size(); ++i) {
      if (tokens_[i] == "as") aliases_[at(i + 1)] = at(i == 0 ? tokens_.size() - 1 : i - 1);
    }
    for (const auto& [table, columns] : schema_.tables) {
      if (!aliases_.emplace(table, table).second) throw SpiderSyntaxError(fmt::format("alias {} is a table", table));
    }
  }

  SpiderQuery parse() {
    size_t i = 0;
    return query(i);
  }

 private:
  using Tables = std::vector<std::string>;  // of the FROM clause: where a bare column is looked for, in this order

  const std::string& at(size_t i) const {
    if (i >= tokens_.size()) throw SpiderSyntaxError("the query ends too early");
    return tokens_[i];
  }
  bool is(size_t i, std::string_view token) const { return i < tokens_.size() && tokens_[i] == token; }
  void expect(size_t& i, std::string_view token) const {
    if (at(i) != token) fail(i, fmt::format("'{}' expected", token));
    ++i;
  }
  bool skip(size_t& i, std::string_view token) const {
    if (!is(i, token)) return false;
    ++i;
    return true;
  }
  [[noreturn]] void fail(size_t i, std::string_view what) const {
    throw SpiderSyntaxError(fmt::format("token {} ('{}'): {}", i, i < tokens_.size() ? tokens_[i] : "the end", what));
  }
  const std::string& table_of(const std::string& name, size_t i) const {
    const auto found = aliases_.find(name);
    if (found == aliases_.end()) fail(i, fmt::format("no table or alias '{}'", name));
    return found->second;
  }

  std::string column(size_t& i, const Tables& tables) const {
    const std::string& token = at(i);
    if (token == "*") {
      ++i;
      return "*";
    }
    if (const size_t dot = token.find('.'); dot != std::string::npos) {
      const std::string& table = table_of(token.substr(0, dot), i);
      const std::string name = token.substr(dot + 1);
      if (!schema_.has_column(table, name)) fail(i, fmt::format("table '{}' has no such column", table));
      ++i;
      return table + "." + name;
    }
    for (const auto& table : tables) {
      if (!schema_.has_column(table, token)) continue;
      ++i;
      return table + "." + token;
    }
    fail(i, "no such column");
  }

  ColumnUnit column_unit(size_t& i, const Tables& tables) const {
    ColumnUnit unit;
    const bool block = is(i, "(");
    if (block) ++i;
    if (const auto aggregate = aggregate_of(at(i))) {
      unit.aggregate = *aggregate;
      expect(++i, "(");
      unit.distinct = skip(i, "distinct");
      unit.column = column(i, tables);
      expect(i, ")");
      return unit;  // an opening parenthesis before an aggregate is not closed here: the official parser forgets it
    }
    unit.distinct = skip(i, "distinct");
    unit.column = column(i, tables);
    if (block) expect(i, ")");
    return unit;
  }

  ValueUnit value_unit(size_t& i, const Tables& tables) const {
    ValueUnit unit;
    const bool block = is(i, "(");
    if (block) ++i;
    unit.left = column_unit(i, tables);
    if (const auto op = i < tokens_.size() ? arithmetic_of(tokens_[i]) : std::nullopt) {
      unit.op = *op;
      unit.right = column_unit(++i, tables);
    }
    if (block) expect(i, ")");
    return unit;
  }

  // A column as a value: the official parser looks no further than the next word of a list of its own, reads one
  // column from there, and drops the rest.
  SpiderValue column_value(size_t start, size_t& i, const Tables& tables) const {
    size_t end = i;
    while (end < tokens_.size() && tokens_[end] != "," && tokens_[end] != ")" && tokens_[end] != "and" &&
           !is_clause(tokens_[end]) && !is_join_word(tokens_[end])) {
      ++end;
    }
    const std::vector<std::string> slice(tokens_.begin() + static_cast<std::ptrdiff_t>(start),
                                         tokens_.begin() + static_cast<std::ptrdiff_t>(end));
    size_t inner = 0;
    ColumnUnit unit = Parser(slice, *this).column_unit(inner, tables);
    i = end;
    return unit;
  }

  SpiderValue value(size_t& i, const Tables& tables) {
    const size_t start = i;
    const bool block = at(i) == "(";
    if (block) ++i;
    SpiderValue result;
    if (at(i) == "select") {
      result = Subquery{std::make_shared<SpiderQuery>(query(i))};
    } else if (tokens_[i].find('"') != std::string::npos) {
      result = tokens_[i++];
    } else if (const auto number = number_of<double>(tokens_[i])) {
      result = *number;
      ++i;
    } else {
      result = column_value(start, i, tables);
    }
    if (block) expect(i, ")");
    return result;
  }

  ConditionList conditions(size_t& i, const Tables& tables) {
    ConditionList list;
    while (i < tokens_.size()) {
      Condition condition;
      condition.unit = value_unit(i, tables);
      condition.negated = at(i) == "not";
      if (condition.negated) ++i;
      const auto op = comparison_of(at(i));
      if (!op) fail(i, "a comparison expected");
      condition.op = *op;
      condition.first = value(++i, tables);
      if (*op == Comparison::kBetween) {
        expect(i, "and");
        condition.second = value(i, tables);
      }
      list.emplace_back(std::move(condition));
      if (i >= tokens_.size() || is_clause(tokens_[i]) || ends_block(tokens_[i]) || is_join_word(tokens_[i])) break;
      if (skip(i, "and")) {
        list.emplace_back(Connector::kAnd);
      } else if (skip(i, "or")) {
        list.emplace_back(Connector::kOr);
      }
    }
    return list;
  }

  void from_clause(size_t& i, SpiderQuery& q, Tables& names) {
    while (i < tokens_.size()) {
      const bool block = skip(i, "(");
      if (at(i) == "select") {
        q.tables.emplace_back(Subquery{std::make_shared<SpiderQuery>(query(i))});
      } else {
        skip(i, "join");
        const std::string& table = table_of(at(i), i);
        if (schema_.tables.count(table) == 0) fail(i, "no table of the schema");
        i += is(i + 1, "as") ? 3 : 1;
        q.tables.emplace_back(table);
        names.push_back(table);
      }
      if (skip(i, "on")) {
        ConditionList list = conditions(i, names);
        if (!q.joins.empty()) q.joins.emplace_back(Connector::kAnd);
        q.joins.insert(q.joins.end(), list.begin(), list.end());
      }
      if (block) expect(i, ")");
      if (i < tokens_.size() && (is_clause(tokens_[i]) || ends_block(tokens_[i]))) break;
    }
  }

  void select_clause(size_t i, SpiderQuery& q, const Tables& tables) const {
    expect(i, "select");
    q.distinct = skip(i, "distinct");
    while (i < tokens_.size() && !is_clause(tokens_[i])) {
      SelectItem item;
      if (const auto aggregate = aggregate_of(tokens_[i])) {
        item.aggregate = *aggregate;
        ++i;
      }
      item.unit = value_unit(i, tables);
      q.select.push_back(std::move(item));
      skip(i, ",");
    }
  }

  void group_by_clause(size_t& i, SpiderQuery& q, const Tables& tables) const {
    if (!skip(i, "group")) return;
    expect(i, "by");
    while (i < tokens_.size() && !is_clause(tokens_[i]) && !ends_block(tokens_[i])) {
      q.group_by.push_back(column_unit(i, tables));
      if (!skip(i, ",")) break;
    }
  }

  void order_by_clause(size_t& i, SpiderQuery& q, const Tables& tables) const {
    if (!skip(i, "order")) return;
    expect(i, "by");
    while (i < tokens_.size() && !is_clause(tokens_[i]) && !ends_block(tokens_[i])) {
      q.order_by.push_back(value_unit(i, tables));
      if (is(i, "asc") || is(i, "desc")) q.descending = tokens_[i++] == "desc";
      if (!skip(i, ",")) break;
    }
  }

  void limit_clause(size_t& i, SpiderQuery& q) const {
    if (!skip(i, "limit")) return;
    q.limit = number_of<long long>(at(i));
    if (!q.limit) fail(i, "LIMIT takes a whole number");
    ++i;
  }

  void set_operation(size_t& i, SpiderQuery& q) {
    std::optional<Subquery>* target = is(i, "intersect") ? &q.intersect
                                      : is(i, "union")   ? &q.unite
                                      : is(i, "except")  ? &q.except
                                                         : nullptr;
    if (target == nullptr) return;
    *target = Subquery{std::make_shared<SpiderQuery>(query(++i))};
  }

  // The clauses in their order; FROM first, since it says where SELECT's bare columns come from.
  SpiderQuery query(size_t& i) {
    if (++nesting_ > kMaxNesting) throw SpiderSyntaxError("nested too deeply");
    SpiderQuery q;
    Tables tables;
    const size_t start = i;
    const bool block = is(i, "(");
    if (block) ++i;
    const size_t select_at = i;
    for (i = start; at(i) != "from";) ++i;
    from_clause(++i, q, tables);
    select_clause(select_at, q, tables);
    if (skip(i, "where")) q.where = conditions(i, tables);
    group_by_clause(i, q, tables);
    if (skip(i, "having")) q.having = conditions(i, tables);
    order_by_clause(i, q, tables);
    limit_clause(i, q);
    while (skip(i, ";")) continue;
    if (block) expect(i, ")");
    while (skip(i, ";")) continue;
    set_operation(i, q);
    --nesting_;
    return q;
  }

  // A parser of a part of another's tokens.
  Parser(const std::vector<std::string>& tokens, const Parser& whole)
      : tokens_(tokens), schema_(whole.schema_), aliases_(whole.aliases_) {}

  const std::vector<std::string>& tokens_;
  const SpiderSchema& schema_;
  std::map<std::string, std::string> aliases_;  // alias or table -> table
  int nesting_ = 0;
};

void check_alternation(const ConditionList& list) {
  for (size_t i = 0; i < list.size(); i += 2) {
    if (!std::holds_alternative<Condition>(list[i])) throw SpiderSyntaxError("two connectors in a row");
  }
}

}  // namespace

bool Subquery::operator==(const Subquery& other) const {
  return *query == *other.query;
}

std::vector<const Condition*> conditions_of(const ConditionList& list) {
  std::vector<const Condition*> out;
  for (size_t i = 0; i < list.size(); i += 2) out.push_back(&std::get<Condition>(list[i]));
  return out;
}

int count_or(const ConditionList& list) {
  int count = 0;
  for (size_t i = 1; i < list.size(); i += 2) {
    const auto* connector = std::get_if<Connector>(&list[i]);
    if (connector != nullptr && *connector == Connector::kOr) ++count;
  }
  return count;
}

SpiderQuery parse_spider_sql(std::string_view sql, const SpiderSchema& schema) {
  const std::vector<std::string> tokens = tokenize_spider_sql(sql);
  if (tokens.empty()) throw SpiderSyntaxError("an empty query");
  SpiderQuery query = Parser(tokens, schema).parse();
  check_alternation(query.joins);
  check_alternation(query.where);
  check_alternation(query.having);
  return query;
}

}  // namespace qlora
