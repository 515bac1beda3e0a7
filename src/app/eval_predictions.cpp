#include "qlora/app/eval_predictions.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>

#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/core/progress.h"
#include "qlora/data/dataset.h"
#include "qlora/eval/generate_task.h"
#include "qlora/eval/prediction_files.h"
#include "qlora/eval/ratings.h"
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
  for (const auto* entries : {&job.data.eval_dataset, &job.data.dataset}) {
    for (const auto& entry : *entries) add(entry.path);
  }
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
  if (begin > 0 && begin == items.size())
    throw UsageError(fmt::format("offset: there are {} rows, none is left after {}", items.size(), options.offset));
  items.erase(items.begin(), items.begin() + static_cast<std::ptrdiff_t>(begin));
  if (options.limit) items.resize(std::min(items.size(), static_cast<size_t>(*options.limit)));
}

// Throws UsageError where predictions do not bring their gold along.
void check_own_questions(const PredictedRun& run) {
  const bool complete = std::none_of(run.questions.begin(), run.questions.end(),
                                     [](const SpiderQuestion& q) { return q.gold.empty() || q.database.empty(); });
  if (run.questions.empty() || !complete) {
    throw UsageError(
        fmt::format("gold: missing; {} does not say what its predictions are to be compared with "
                    "(name lines of SQL, tab, db_id, or an eval_dataset)",
                    run.file));
  }
}

void check_options(const EvalOptions& options) {
  for (const auto& task : options.tasks) {
    if (task != "spider" && task != "generate")
      throw UsageError(
          fmt::format("predictions: the task '{}' needs a model; spider and generate alone score a file", task));
  }
  check_eval_options(options);
}

// Files of predictions, scored.
class PredictionsEvaluation {
 public:
  explicit PredictionsEvaluation(const EvalJob& job) : job_(job) {
    if (has_task(job.eval, "spider")) {
      const SpiderPlaces places = find_spider_places(job);
      scorer_ =
          std::make_unique<SpiderScorer>(places.tables, places.db_dir, sandbox_limits(job.eval), job.eval.plug_value);
      std::optional<Dataset> rows;
      if (!job.data.eval_dataset.empty())
        rows.emplace(job.data.eval_dataset, Dataset::Role::kEvaluation, static_cast<uint64_t>(job.common.seed));
      gold_ = read_spider_questions(job, rows ? &*rows : nullptr);
    }
    for (const std::string& task : job.eval.tasks) runs_.push_back(read_runs(task));
    check_blind(job.eval, runs_.front().size());
  }

  int run() {
    if (job_.common.dry_run) return print_eval_plan(job_, runs_.front().front().answers.size(), plan());
    const auto start = std::chrono::steady_clock::now();
    EvalResults results;
    for (const PredictedRun& run : runs_.front()) results.runs.push_back({run.name, "", {}, run.file});
    for (size_t t = 0; t < runs_.size(); ++t) {
      for (size_t r = 0; r < runs_[t].size(); ++r)
        results.runs.at(r).tasks.push_back(scored(job_.eval.tasks[t], runs_[t][r]));
    }
    const bool pairs = job_.eval.baseline || job_.eval.predictions.size() > 1;
    if (pairs && find_base(results) == nullptr) results.base = results.runs.front().name;
    results.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return finish_eval(job_, std::move(results));
  }

 private:
  // The runs of a task, each with its questions.
  std::vector<PredictedRun> read_runs(const std::string& task) const {
    std::vector<PredictedRun> runs = read_predictions(job_.eval.predictions, task);
    for (PredictedRun& run : runs) {
      const size_t count = run.answers.size();
      take_part(run.answers, job_.eval);
      take_part(run.questions, job_.eval);
      if (task == "spider") take_gold(run, count);
      run.questions.resize(run.answers.size());  // plain lines of `generate` say nothing else
    }
    if (!runs_.empty() && !std::equal(runs.begin(), runs.end(), runs_.front().begin(), runs_.front().end(),
                                      [](const auto& a, const auto& b) { return a.name == b.name; })) {
      throw DataError(fmt::format("predictions: the files hold other runs of {} than of {}", task, job_.eval.tasks[0]));
    }
    return runs;
  }

  // --gold lines or eval_dataset, where given, go before what a file says itself. `count`: of all its predictions.
  void take_gold(PredictedRun& run, size_t count) const {
    if (gold_.empty()) {
      check_own_questions(run);
    } else {
      run.questions = gold_;
    }
    if (run.questions.size() == run.answers.size()) return;
    throw DataError(
        fmt::format("{}: {} predictions ({} after offset and limit) for {} gold queries; one a line, an empty line for "
                    "an empty prediction",
                    run.file, count, run.answers.size(), run.questions.size()));
  }

  Json plan() const {
    Json plan = Json::array();
    for (const PredictedRun& run : runs_.front()) plan.push_back({{"name", run.name}, {"adapter", nullptr}});
    return plan;
  }

  TaskResult scored(const std::string& task, const PredictedRun& run) {
    if (task == "spider") {
      Progress progress("queries", static_cast<int64_t>(run.answers.size()));
      const auto on_done = [&](size_t done) { progress.update(static_cast<int64_t>(done)); };
      return scorer_->score(run.questions, run.answers, job_.eval.extract, on_done);
    }
    std::vector<EvalRow> rows(run.answers.size());
    for (size_t i = 0; i < rows.size(); ++i) {
      const SpiderQuestion& question = run.questions[i];
      rows[i].id = question.id;
      rows[i].prompt = question.prompt;
      rows[i].prediction = run.answers[i];
      rows[i].gold = question.gold;
      rows[i].question = question.question;
    }
    return score_answers(std::move(rows));
  }

  const EvalJob& job_;
  std::unique_ptr<SpiderScorer> scorer_;
  std::vector<SpiderQuestion> gold_;             // that --gold or eval_dataset say
  std::vector<std::vector<PredictedRun>> runs_;  // by task
};

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

std::vector<SpiderQuestion> read_spider_questions(const EvalJob& job, const Dataset* dataset) {
  std::vector<SpiderQuestion> rows;
  if (dataset != nullptr) rows = questions_of(*dataset);
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
  return PredictionsEvaluation(job).run();
}

}  // namespace qlora
