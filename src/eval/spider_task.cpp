#include "qlora/eval/spider_task.h"

#include <algorithm>
#include <array>
#include <set>

#include <spdlog/fmt/fmt.h>

#include "qlora/core/error.h"
#include "qlora/eval/score/answer_form.h"
#include "qlora/eval/score/sql_text.h"
#include "qlora/eval/score/text_scores.h"

namespace qlora {

struct SpiderScorer::Database {
  SpiderSchema schema;
  ForeignKeyMap foreign_keys;
  std::vector<std::string> files;  // of this schema; empty where there is none
};

// The two readings of an answer, and what became of them: as it is, and the SQL in it.
struct SpiderScorer::Item {
  const Database* database = nullptr;
  std::optional<SpiderQuery> gold;
  EvalRow row;
  ExecutionVerdict raw, extracted;
};

namespace {

// Sums of one clause over rows, as the official evaluator prints them.
struct PartialSum {
  double matched_of_predicted = 0, predicted = 0, matched_of_gold = 0, gold = 0;

  void add(const PartialScore& score) {
    const double hit = score.matched ? 1 : 0;
    if (score.predicted_total > 0) matched_of_predicted += hit, ++predicted;
    if (score.gold_total > 0) matched_of_gold += hit, ++gold;
  }
  Json json() const {
    const double accuracy = predicted > 0 ? matched_of_predicted / predicted : 0;
    const double recall = gold > 0 ? matched_of_gold / gold : 0;
    const double sum = accuracy + recall;
    return {{"accuracy", accuracy}, {"recall", recall}, {"f1", sum > 0 ? 2 * accuracy * recall / sum : 1.0}};
  }
};

// Of one clause, over all rows and by level.
struct ClauseSums {
  PartialSum all;
  std::array<PartialSum, kHardnessNames.size()> by_level;

  Json json() const {
    Json out = all.json();
    for (size_t level = 0; level < by_level.size(); ++level)
      out["by"][std::string(kHardnessNames[level])] = by_level[level].json();
    return out;
  }
};

// How many answers have what around their SQL.
struct AnswerCounts {
  size_t sql_alone = 0;
  std::array<size_t, kAnswerPartNames.size()> parts{};

  void add(EvalRow& row) {
    const auto form = answer_form(row.prediction);
    Json has = Json::array();
    for (size_t i = 0; i < form.size(); ++i) {
      if (form[i]) has.push_back(kAnswerPartNames[i]), ++parts[i];
    }
    if (has.empty()) ++sql_alone;
    if (!has.empty()) row.details["has"] = has;
  }
  Json json() const {
    Json out = {{"sql_alone", sql_alone}};
    for (size_t i = 0; i < parts.size(); ++i) out[kAnswerPartNames[i]] = parts[i];
    return out;
  }
};

// <db_id>.sqlite, then every other .sqlite file beside it, by name: the contents that a prediction must be right on.
// None where the first is missing.
std::vector<std::string> database_files(const std::filesystem::path& folder) {
  std::vector<std::string> files;
  const std::string first = std::filesystem::absolute(folder / (folder.filename().string() + ".sqlite")).string();
  if (!std::filesystem::is_regular_file(first)) return files;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (entry.path().extension() == ".sqlite" && entry.is_regular_file())
      files.push_back(std::filesystem::absolute(entry.path()).string());
  }
  if (error) throw DataError(fmt::format("{}: cannot be read: {}", folder.string(), error.message()));
  std::sort(files.begin(), files.end(), [&](const std::string& a, const std::string& b) {
    return std::pair(a != first, a) < std::pair(b != first, b);
  });
  return files;
}

std::optional<SpiderQuery> try_parse(const std::string& sql, const SpiderSchema& schema) {
  try {
    return parse_spider_sql(sql, schema);
  } catch (const SpiderSyntaxError&) {
    return std::nullopt;
  }
}

std::string words_for(const ExecutionVerdict& verdict) {
  static constexpr std::array<std::string_view, 8> kWords = {"",
                                                             "another result",
                                                             "not executed",
                                                             "out of time",
                                                             "out of memory",
                                                             "the worker died",
                                                             "no SQL",
                                                             "the gold could not be executed"};
  const std::string words(kWords.at(static_cast<size_t>(verdict.outcome)));
  return verdict.message.empty() ? words : words + ": " + verdict.message;
}

// One text against the gold, parsed.
struct TextMatch {
  bool parsed = false;
  ExactMatch match;
  bool exact_with_values = false;
};

TextMatch match_text(const std::optional<SpiderQuery>& gold, const std::string& text, const SpiderSchema& schema,
                     const ForeignKeyMap& foreign_keys) {
  const auto query = try_parse(parsable_prediction(text), schema);
  TextMatch result;
  result.parsed = query.has_value();
  if (gold) result.match = match_exactly(*gold, query.value_or(unparsed_query()), schema, foreign_keys);
  if (result.match.exact)
    result.exact_with_values = match_exactly(*gold, *query, schema, foreign_keys, ConditionValues::kCompared).exact;
  return result;
}

constexpr std::array<std::string_view, 9> kScores = {
    "parsed",      "exact",        "execution",         "exact_string", "exact_normalized",
    "token_match", "syntax_valid", "exact_with_values", "answer_only"};

// In the order of kScores.
std::vector<double> all_scores(const std::string& text, const std::string& gold, const TextMatch& match,
                               const ExecutionVerdict& verdict) {
  const auto number = [](bool yes) { return yes ? 1.0 : 0.0; };
  return {number(match.parsed),
          number(match.match.exact),
          number(verdict.equal()),
          number(exact_string(text, gold)),
          number(exact_normalized(text, gold)),
          token_match(text, gold),
          number(verdict.syntax_valid),
          number(match.exact_with_values),
          number(answer_form(text) == std::array<bool, kAnswerPartNames.size()>{})};
}

}  // namespace

const std::vector<std::string>& spider_score_names() {
  static const std::vector<std::string> names(kScores.begin(), kScores.end());
  return names;
}

SpiderScorer::SpiderScorer(const std::filesystem::path& tables, std::filesystem::path db_dir, SandboxLimits limits,
                           bool plug_values)
    : tables_(tables),
      db_dir_(std::move(db_dir)),
      known_(read_spider_tables(tables)),
      sandbox_(limits),
      plug_values_(plug_values) {}

const SpiderScorer::Database& SpiderScorer::database(const std::string& id) {
  auto& entry = databases_[id];
  if (entry != nullptr) return *entry;
  const auto known = known_.find(id);
  if (known == known_.end()) {
    throw DataError(
        fmt::format("{}: no database '{}'; the questions and `tables` do not belong together", tables_.string(), id));
  }
  entry = std::make_shared<Database>(
      Database{known->second.schema, known->second.foreign_keys, database_files(db_dir_ / id)});
  // What the official evaluator parses against.
  if (!entry->files.empty()) entry->schema = read_sqlite_schema(entry->files.front());
  return *entry;
}

SpiderScorer::Item SpiderScorer::prepare(const SpiderQuestion& question, const std::string& answer) {
  Item item;
  item.database = &database(question.database);
  item.gold = try_parse(question.gold, item.database->schema);
  const Hardness hardness = item.gold ? hardness_of(*item.gold) : Hardness::kExtra;
  item.row.id = question.id;
  item.row.prompt = question.prompt;
  item.row.prediction = answer;
  item.row.extracted = extract_sql(answer);
  item.row.gold = question.gold;
  item.row.question = question.question;
  item.row.part = question.database;
  item.row.group = kHardnessNames.at(static_cast<size_t>(hardness));
  return item;
}

void SpiderScorer::execute(std::vector<Item>& items, const std::function<void(size_t)>& on_done) {
  std::vector<ExecutionJob> jobs;
  std::vector<Item*> of_job;
  for (auto& item : items) {
    if (item.database->files.empty()) {
      item.raw.outcome = item.extracted.outcome = ExecutionOutcome::kGoldFailed;
      item.raw.message = item.extracted.message = "there is no database file";
      continue;
    }
    jobs.push_back({item.database->files, item.row.gold, {item.row.prediction}, plug_values_});
    if (trim(item.row.prediction) != item.row.extracted) jobs.back().predictions.push_back(item.row.extracted);
    of_job.push_back(&item);
  }
  const auto verdicts = sandbox_.run(jobs, on_done);
  for (size_t j = 0; j < jobs.size(); ++j) {
    of_job[j]->raw = verdicts[j].front();
    of_job[j]->extracted = verdicts[j].back();
  }
}

TaskResult SpiderScorer::score(const std::vector<SpiderQuestion>& questions, const std::vector<std::string>& answers,
                               Extract extract, const std::function<void(size_t)>& on_done) {
  if (questions.size() != answers.size()) {
    throw DataError(fmt::format("{} answers to {} questions", answers.size(), questions.size()));
  }
  std::vector<Item> items;
  for (size_t i = 0; i < questions.size(); ++i) items.push_back(prepare(questions[i], answers[i]));
  execute(items, on_done);

  TaskResult result;
  result.task = "spider";
  result.scores = spider_score_names();
  result.groups.assign(kHardnessNames.begin(), kHardnessNames.end());
  result.other_name = extract == Extract::kSql ? "raw" : "extracted";
  std::array<ClauseSums, kPartialNames.size()> partial;
  AnswerCounts answer_counts;
  size_t not_parsed = 0;
  size_t not_executed = 0;
  for (auto& item : items) {
    const auto match = [&](const std::string& text) {
      return match_text(item.gold, text, item.database->schema, item.database->foreign_keys);
    };
    TextMatch raw = match(item.row.prediction);
    TextMatch extracted = item.row.prediction == item.row.extracted ? raw : match(item.row.extracted);
    item.row.scores = all_scores(item.row.prediction, item.row.gold, raw, item.raw);
    item.row.other_scores = all_scores(item.row.extracted, item.row.gold, extracted, item.extracted);
    if (extract == Extract::kSql) {
      std::swap(item.row.scores, item.row.other_scores);
      std::swap(raw, extracted);
      std::swap(item.raw, item.extracted);
    }
    const auto level = std::find(kHardnessNames.begin(), kHardnessNames.end(), item.row.group) - kHardnessNames.begin();
    for (size_t p = 0; p < partial.size(); ++p) {
      partial[p].all.add(raw.match.partial[p]);
      partial[p].by_level.at(static_cast<size_t>(level)).add(raw.match.partial[p]);
    }
    answer_counts.add(item.row);
    item.row.error = words_for(item.raw);
    if (!item.raw.gold_result.empty()) item.row.details["gold_result"] = item.raw.gold_result;
    if (!item.raw.result.empty()) item.row.details["result"] = item.raw.result;
    not_parsed += item.gold ? 0 : 1;
    not_executed += item.raw.outcome == ExecutionOutcome::kGoldFailed ? 1 : 0;
    result.rows.push_back(std::move(item.row));
  }
  result.details["gold_not_parsed"] = not_parsed;
  result.details["gold_not_executed"] = not_executed;
  for (size_t p = 0; p < partial.size(); ++p) result.details["partial"][kPartialNames[p]] = partial[p].json();
  result.details["answers"] = answer_counts.json();
  return result;
}

void add_seen_unseen(TaskResult& task, const std::vector<std::string>& training_databases) {
  const std::set<std::string> seen(training_databases.begin(), training_databases.end());
  for (const bool wanted : {true, false}) {
    TaskResult part;
    part.scores = task.scores;
    std::copy_if(task.rows.begin(), task.rows.end(), std::back_inserter(part.rows),
                 [&](const EvalRow& row) { return (seen.count(row.part) > 0) == wanted; });
    Json& out = task.details[wanted ? "seen" : "unseen"];
    out["n"] = part.rows.size();
    for (size_t i = 0; i < part.scores.size(); ++i) {
      if (const auto mean = score_over_rows(part, i)) out[part.scores[i]] = *mean;
    }
  }
}

}  // namespace qlora
