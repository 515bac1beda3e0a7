#include "qlora/app/eval_predictions.h"

#include <algorithm>
#include <chrono>
#include <filesystem>

#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/core/progress.h"
#include "qlora/data/dataset.h"
#include "qlora/eval/prediction_files.h"
#include "qlora/eval/task_scores.h"

namespace qlora {
namespace {

namespace fs = std::filesystem;

// Folders beside which tables.json and database/ are looked for.
std::vector<fs::path> candidate_folders(const EvalJob& job) {
  std::vector<fs::path> folders;
  const auto add = [&](const fs::path& path) {
    if (!path.empty()) folders.push_back(fs::is_directory(path) ? path : path.parent_path());
  };
  for (const auto& entry : job.data.eval_dataset) add(entry.path);
  add(job.eval.gold);
  return folders;
}

std::vector<SpiderQuestion> questions_of(const Dataset& dataset) {
  std::vector<SpiderQuestion> questions;
  for (size_t i = 0; i < dataset.size(); ++i) {
    const Example example = dataset.example(i, FormatContext{}, std::nullopt);
    SpiderQuestion question;
    const auto text = [&](const char* key) {
      const auto found = example.row.find(key);
      if (found == example.row.end() || !found->is_string()) {
        throw DataError(
            fmt::format("{}: no text '{}'; the task spider scores rows of Spider's format", dataset.place(i), key));
      }
      return found->get<std::string>();
    };
    question.id = example.id;
    question.gold = text("query");
    question.database = text("db_id");
    question.question = text("question");
    questions.push_back(std::move(question));
  }
  return questions;
}

// The part of `items` that offset and limit leave.
template <typename T>
void take_part(std::vector<T>& items, const EvalOptions& options) {
  const size_t begin = std::min(static_cast<size_t>(options.offset), items.size());
  items.erase(items.begin(), items.begin() + static_cast<std::ptrdiff_t>(begin));
  if (options.limit) items.resize(std::min(items.size(), static_cast<size_t>(*options.limit)));
}

// Throws UsageError where predictions do not bring their gold along.
void check_own_questions(const PredictedRun& run, const std::string& path) {
  const bool complete = std::none_of(run.questions.begin(), run.questions.end(),
                                     [](const SpiderQuestion& q) { return q.gold.empty() || q.database.empty(); });
  if (run.questions.empty() || !complete) {
    throw UsageError(
        fmt::format("gold: missing; {} does not say what its predictions are to be compared with "
                    "(name lines of SQL, tab, db_id, or an eval_dataset)",
                    path));
  }
}

void check_options(const EvalOptions& options) {
  for (const auto& task : options.tasks) {
    if (task != "spider")
      throw UsageError(fmt::format("predictions: the task '{}' needs a model; spider alone scores a file", task));
  }
  check_eval_options(options);
}

}  // namespace

SpiderPlaces find_spider_places(const EvalJob& job) {
  SpiderPlaces places{job.data.tables, job.data.db_dir};
  for (const auto& folder : candidate_folders(job)) {
    if (places.tables.empty() && fs::is_regular_file(folder / "tables.json")) places.tables = folder / "tables.json";
    if (places.db_dir.empty() && fs::is_directory(folder / "database")) places.db_dir = folder / "database";
  }
  if (places.tables.empty()) throw UsageError("tables: missing; name Spider's tables.json");
  if (places.db_dir.empty()) throw UsageError("db_dir: missing; name the folder of <db_id>/<db_id>.sqlite");
  return places;
}

std::vector<SpiderQuestion> read_spider_questions(const EvalJob& job) {
  std::vector<SpiderQuestion> rows;
  if (!job.data.eval_dataset.empty()) {
    rows = questions_of(
        Dataset(job.data.eval_dataset, Dataset::Role::kEvaluation, static_cast<uint64_t>(job.common.seed)));
  }
  if (!job.eval.gold.empty()) {
    auto gold = read_gold(job.eval.gold);
    for (size_t i = 0; gold.size() == rows.size() && i < gold.size(); ++i) gold[i].question = rows[i].question;
    rows = std::move(gold);
  }
  take_part(rows, job.eval);
  return rows;
}

SandboxLimits sandbox_limits(const EvalOptions& options) {
  SandboxLimits limits;
  limits.seconds = options.sql_timeout;
  return limits;
}

int run_eval_predictions(const EvalJob& job) {
  check_options(job.eval);
  const SpiderPlaces places = find_spider_places(job);
  SpiderScorer scorer(places.tables, places.db_dir, sandbox_limits(job.eval), job.eval.plug_value);
  auto runs = read_predictions(job.eval.predictions);
  const auto questions = read_spider_questions(job);
  Json plan = Json::array();
  for (auto& run : runs) {
    const size_t count = run.answers.size();
    take_part(run.answers, job.eval);
    take_part(run.questions, job.eval);
    if (questions.empty()) check_own_questions(run, job.eval.predictions);
    const auto& gold = questions.empty() ? run.questions : questions;
    if (gold.size() != run.answers.size()) {
      throw DataError(
          fmt::format("{}: {} predictions ({} after offset and limit) for {} gold queries; one a line, an "
                      "empty line for an empty prediction",
                      job.eval.predictions, count, run.answers.size(), gold.size()));
    }
    plan.push_back({{"name", run.name}, {"adapter", nullptr}});
  }
  if (job.common.dry_run) return print_eval_plan(job, runs[0].answers.size(), plan);
  const auto start = std::chrono::steady_clock::now();
  EvalResults results;
  for (const auto& run : runs) {
    Progress progress("queries", static_cast<int64_t>(run.answers.size()));
    const auto on_done = [&](size_t done) { progress.update(static_cast<int64_t>(done)); };
    const auto& gold = questions.empty() ? run.questions : questions;
    results.runs.push_back({run.name, "", {scorer.score(gold, run.answers, job.eval.extract, on_done)}});
  }
  results.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return finish_eval(job, results);
}

}  // namespace qlora
