#include "qlora/eval/score/spider_match.h"

#include <algorithm>
#include <set>

namespace qlora {
namespace {

// --- What a comparison shall not see: values, DISTINCT, which end of a foreign key was written.

// Runs `change` on a copy of the subquery and puts the copy in its place.
template <typename Change>
void change_nested(Subquery& nested, const Change& change) {
  auto copy = std::make_shared<SpiderQuery>(*nested.query);
  change(*copy);
  nested.query = std::move(copy);
}

void drop_values(SpiderQuery& query);

void drop_value(SpiderValue& value) {
  if (auto* nested = std::get_if<Subquery>(&value)) {
    change_nested(*nested, [](SpiderQuery& query) { drop_values(query); });
  } else {
    value = std::monostate{};
  }
}

void drop_values(ConditionList& list) {
  for (size_t i = 0; i < list.size(); i += 2) {
    auto& condition = std::get<Condition>(list[i]);
    drop_value(condition.first);
    drop_value(condition.second);
  }
}

// Subqueries of FROM keep theirs, as the official evaluator has it.
void drop_values(SpiderQuery& query) {
  drop_values(query.joins);
  drop_values(query.where);
  drop_values(query.having);
  for (auto* nested : {&query.intersect, &query.unite, &query.except}) {
    if (nested->has_value()) change_nested(**nested, [](SpiderQuery& q) { drop_values(q); });
  }
}

// Columns -> the representative of their foreign-key group, for the tables of the outermost FROM alone.
class ColumnMapper {
 public:
  ColumnMapper(const SpiderQuery& outermost, const SpiderSchema& schema, const ForeignKeyMap& keys)
      : schema_(schema), keys_(keys) {
    for (const auto& table : outermost.tables) {
      if (const auto* name = std::get_if<std::string>(&table)) tables_.insert(*name);
    }
  }

  // Nested queries of conditions and of FROM stay as they are, set operations do not: as the official one has it.
  void apply(SpiderQuery& query) const {
    query.distinct.reset();
    for (auto& item : query.select) apply(item.unit);
    for (auto* list : {&query.joins, &query.where, &query.having}) apply(*list);
    for (auto& unit : query.group_by) apply(unit);
    for (auto& unit : query.order_by) apply(unit);
    for (auto* nested : {&query.intersect, &query.unite, &query.except}) {
      if (nested->has_value()) change_nested(**nested, [this](SpiderQuery& q) { apply(q); });
    }
  }

 private:
  void apply(ColumnUnit& unit) const {
    unit.distinct.reset();
    const auto found = keys_.find(unit.column);
    if (found == keys_.end()) return;
    const size_t dot = unit.column.find('.');
    const std::string table = unit.column.substr(0, dot);
    if (tables_.count(table) > 0 && schema_.has_column(table, unit.column.substr(dot + 1))) unit.column = found->second;
  }
  void apply(ValueUnit& unit) const {
    apply(unit.left);
    if (unit.right) apply(*unit.right);
  }
  void apply(ConditionList& list) const {
    for (size_t i = 0; i < list.size(); i += 2) apply(std::get<Condition>(list[i]).unit);
  }

  const SpiderSchema& schema_;
  const ForeignKeyMap& keys_;
  std::set<std::string> tables_;
};

// --- Clauses compared as bags.

// How many of `predicted` find a partner of their own in `gold`.
template <typename Item>
int count_common(const std::vector<Item>& predicted, std::vector<Item> gold) {
  int count = 0;
  for (const auto& item : predicted) {
    const auto found = std::find(gold.begin(), gold.end(), item);
    if (found == gold.end()) continue;
    gold.erase(found);
    ++count;
  }
  return count;
}

PartialScore score(size_t gold_total, size_t predicted_total, int common) {
  return {static_cast<int>(gold_total), static_cast<int>(predicted_total),
          gold_total == predicted_total && static_cast<size_t>(common) == predicted_total};
}

template <typename Item>
PartialScore score_bags(const std::vector<Item>& gold, const std::vector<Item>& predicted) {
  return score(gold.size(), predicted.size(), count_common(predicted, gold));
}

std::vector<ValueUnit> units_of(const std::vector<SelectItem>& items) {
  std::vector<ValueUnit> units;
  units.reserve(items.size());
  for (const auto& item : items) units.push_back(item.unit);
  return units;
}

std::vector<Condition> copies_of(const ConditionList& list) {
  std::vector<Condition> out;
  for (const auto* condition : conditions_of(list)) out.push_back(*condition);
  return out;
}

std::vector<ValueUnit> units_of(const std::vector<Condition>& conditions) {
  std::vector<ValueUnit> units;
  units.reserve(conditions.size());
  for (const auto& condition : conditions) units.push_back(condition.unit);
  return units;
}

std::vector<std::string> grouped_columns(const SpiderQuery& query, bool with_table) {
  std::vector<std::string> columns;
  for (const auto& unit : query.group_by) {
    const size_t dot = with_table ? std::string::npos : unit.column.find('.');
    columns.push_back(dot == std::string::npos ? unit.column : unit.column.substr(dot + 1));
  }
  return columns;
}

PartialScore score_having(const SpiderQuery& gold, const SpiderQuery& predicted) {
  const bool both = !gold.group_by.empty() && !predicted.group_by.empty();
  const bool same =
      both && grouped_columns(gold, true) == grouped_columns(predicted, true) && gold.having == predicted.having;
  return score(gold.group_by.empty() ? 0 : 1, predicted.group_by.empty() ? 0 : 1, same ? 1 : 0);
}

PartialScore score_order(const SpiderQuery& gold, const SpiderQuery& predicted) {
  const bool same = !gold.order_by.empty() && gold.descending == predicted.descending &&
                    gold.order_by == predicted.order_by && gold.limit.has_value() == predicted.limit.has_value();
  return score(gold.order_by.empty() ? 0 : 1, predicted.order_by.empty() ? 0 : 1, same ? 1 : 0);
}

// The distinct elements at odd places: connectors, as a rule.
std::vector<std::variant<Condition, Connector>> connectors_of(const ConditionList& list) {
  std::vector<std::variant<Condition, Connector>> out;
  for (size_t i = 1; i < list.size(); i += 2) {
    if (std::find(out.begin(), out.end(), list[i]) == out.end()) out.push_back(list[i]);
  }
  return out;
}

// Equal counts as one found of one, even where there is no connector; the official totals are swapped otherwise.
PartialScore score_connectors(const SpiderQuery& gold, const SpiderQuery& predicted) {
  const auto gold_set = connectors_of(gold.where);
  const auto predicted_set = connectors_of(predicted.where);
  const bool same = gold_set.size() == predicted_set.size() &&
                    count_common(predicted_set, gold_set) == static_cast<int>(gold_set.size());
  if (same) return {1, 1, true};
  return {static_cast<int>(predicted_set.size()), static_cast<int>(gold_set.size()), false};
}

ExactMatch match_prepared(const SpiderQuery& gold, const SpiderQuery& predicted);

PartialScore score_set_operations(const SpiderQuery& gold, const SpiderQuery& predicted) {
  size_t gold_total = 0;
  size_t predicted_total = 0;
  int common = 0;
  for (auto member : {&SpiderQuery::intersect, &SpiderQuery::except, &SpiderQuery::unite}) {
    const auto& of_gold = gold.*member;
    const auto& of_predicted = predicted.*member;
    gold_total += of_gold.has_value() ? 1 : 0;
    predicted_total += of_predicted.has_value() ? 1 : 0;
    if (of_gold && of_predicted && match_prepared(*of_gold->query, *of_predicted->query).exact) ++common;
  }
  return score(gold_total, predicted_total, common);
}

std::vector<const Condition*> all_conditions(const SpiderQuery& query) {
  std::vector<const Condition*> all;
  for (const auto* list : {&query.joins, &query.where, &query.having}) {
    const auto some = conditions_of(*list);
    all.insert(all.end(), some.begin(), some.end());
  }
  return all;
}

int count_all_or(const SpiderQuery& query) {
  return count_or(query.joins) + count_or(query.where) + count_or(query.having);
}

std::vector<std::string_view> keywords_of(const SpiderQuery& query) {
  std::vector<std::string_view> words;
  const auto add = [&](bool present, std::string_view word) {
    if (present) words.push_back(word);
  };
  const auto conditions = all_conditions(query);
  const auto any = [&](auto&& test) { return std::any_of(conditions.begin(), conditions.end(), test); };
  add(!query.where.empty(), "where");
  add(!query.group_by.empty(), "group");
  add(!query.having.empty(), "having");
  add(!query.order_by.empty(), query.descending ? "desc" : "asc");
  add(!query.order_by.empty(), "order");
  add(query.limit.has_value(), "limit");
  add(query.except.has_value(), "except");
  add(query.unite.has_value(), "union");
  add(query.intersect.has_value(), "intersect");
  add(count_all_or(query) > 0, "or");
  add(any([](const Condition* c) { return c->negated; }), "not");
  add(any([](const Condition* c) { return c->op == Comparison::kIn; }), "in");
  add(any([](const Condition* c) { return c->op == Comparison::kLike; }), "like");
  return words;
}

ExactMatch match_prepared(const SpiderQuery& gold, const SpiderQuery& predicted) {
  const auto gold_where = copies_of(gold.where);
  const auto predicted_where = copies_of(predicted.where);
  ExactMatch match;
  match.partial = {score_bags(gold.select, predicted.select),
                   score_bags(units_of(gold.select), units_of(predicted.select)),
                   score_bags(gold_where, predicted_where),
                   score_bags(units_of(gold_where), units_of(predicted_where)),
                   score_bags(grouped_columns(gold, false), grouped_columns(predicted, false)),
                   score_having(gold, predicted),
                   score_order(gold, predicted),
                   score_connectors(gold, predicted),
                   score_set_operations(gold, predicted),
                   score_bags(keywords_of(gold), keywords_of(predicted))};
  const bool clauses =
      std::all_of(match.partial.begin(), match.partial.end(), [](const PartialScore& p) { return p.matched; });
  const bool tables =
      gold.tables.empty() || (gold.tables.size() == predicted.tables.size() &&
                              count_common(predicted.tables, gold.tables) == static_cast<int>(gold.tables.size()));
  match.exact = clauses && tables;
  return match;
}

// --- Hardness.

int count_components(const SpiderQuery& query) {
  const auto conditions = all_conditions(query);
  const auto likes = std::count_if(conditions.begin(), conditions.end(),
                                   [](const Condition* c) { return c->op == Comparison::kLike; });
  return (query.where.empty() ? 0 : 1) + (query.group_by.empty() ? 0 : 1) + (query.order_by.empty() ? 0 : 1) +
         (query.limit ? 1 : 0) + static_cast<int>(query.tables.size()) - (query.tables.empty() ? 0 : 1) +
         count_all_or(query) + static_cast<int>(likes);
}

int count_nested(const SpiderQuery& query) {
  int count = 0;
  for (const auto* condition : all_conditions(query)) {
    count += std::holds_alternative<Subquery>(condition->first) ? 1 : 0;
    count += std::holds_alternative<Subquery>(condition->second) ? 1 : 0;
  }
  return count + (query.intersect ? 1 : 0) + (query.except ? 1 : 0) + (query.unite ? 1 : 0);
}

// The official count takes a NOT for an aggregate, and in HAVING each connector too: the levels of the data rest on it.
int count_aggregates(const SpiderQuery& query) {
  int count = 0;
  const auto add = [&](bool aggregate) { count += aggregate ? 1 : 0; };
  for (const auto& item : query.select) add(item.aggregate != Aggregate::kNone);
  for (const auto* condition : conditions_of(query.where)) add(condition->negated);
  for (const auto& unit : query.group_by) add(unit.aggregate != Aggregate::kNone);
  for (const auto& unit : query.order_by) {
    add(unit.left.aggregate != Aggregate::kNone);
    add(unit.right && unit.right->aggregate != Aggregate::kNone);
  }
  for (const auto& element : query.having) {
    const auto* condition = std::get_if<Condition>(&element);
    add(condition == nullptr || condition->negated);
  }
  return count;
}

int count_others(const SpiderQuery& query) {
  return (count_aggregates(query) > 1 ? 1 : 0) + (query.select.size() > 1 ? 1 : 0) + (query.where.size() > 1 ? 1 : 0) +
         (query.group_by.size() > 1 ? 1 : 0);
}

}  // namespace

Hardness hardness_of(const SpiderQuery& query) {
  const int components = count_components(query);
  const int nested = count_nested(query);
  const int others = count_others(query);
  if (nested == 0) {
    if (components <= 1 && others == 0) return Hardness::kEasy;
    if ((others <= 2 && components <= 1) || (components <= 2 && others < 2)) return Hardness::kMedium;
    if ((others > 2 && components <= 2) || (components == 3 && others <= 2)) return Hardness::kHard;
  }
  return components <= 1 && others == 0 && nested <= 1 ? Hardness::kHard : Hardness::kExtra;
}

ExactMatch match_exactly(SpiderQuery gold, SpiderQuery predicted, const SpiderSchema& schema,
                         const ForeignKeyMap& foreign_keys, ConditionValues values) {
  for (auto* query : {&gold, &predicted}) {
    if (values == ConditionValues::kIgnored) drop_values(*query);
    ColumnMapper(*query, schema, foreign_keys).apply(*query);
  }
  return match_prepared(gold, predicted);
}

SpiderQuery unparsed_query() {
  return SpiderQuery{};
}

}  // namespace qlora
