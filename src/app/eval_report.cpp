// What every evaluation ends with: files, the table, the check of required scores.
#include <cstdio>
#include <filesystem>

#include "qlora/app/eval_predictions.h"
#include "qlora/core/atomic_file.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/eval/paired.h"
#include "qlora/eval/report_json.h"
#include "qlora/eval/terminal_table.h"
#include "qlora/report/eval_page.h"

namespace qlora {
namespace {

// The score that counts most, of those that a task has.
size_t main_score(const TaskResult& task) {
  for (size_t i = 0; i < task.scores.size(); ++i) {
    if (task.scores[i] == "execution") return i;
  }
  return 0;
}

std::vector<FlippedAnswer> flipped_answers(const EvalResults& results) {
  std::vector<FlippedAnswer> out;
  const EvalRun* base = find_base(results);
  for (const auto& run : results.runs) {
    for (const auto& task : run.tasks) {
      const TaskResult* of_base = base == nullptr || base == &run ? nullptr : find_task(*base, task.task);
      if (of_base == nullptr || task.scores.empty() || of_base->scores != task.scores) continue;
      for (const auto& flip : flipped_rows(*of_base, task, main_score(task))) {
        const EvalRow& before = of_base->rows[flip.row];
        const EvalRow& after = task.rows[flip.row];
        const std::string place = after.id.is_string() ? after.id.get<std::string>() : after.id.dump();
        out.push_back({run.name, place, after.group, after.question, after.gold, before.prediction, after.prediction,
                       before.error, after.error, flip.won});
      }
    }
  }
  return out;
}

void warn_about_gold(const EvalResults& results) {
  for (const auto& run : results.runs) {
    const TaskResult* task = find_task(run, "spider");
    if (task == nullptr) continue;
    const auto count = [&](const char* key) { return task->details.value(key, 0); };
    if (count("gold_not_parsed") > 0) {
      log_warning(
          "{}: {} gold queries are outside of Spider's dialect: they count as extra hard and match nothing exactly",
          run.name, count("gold_not_parsed"));
    }
    if (count("gold_not_executed") > 0) {
      log_warning(
          "{}: {} gold queries could not be executed: predictions score 0 there; see `error` in predictions.jsonl",
          run.name, count("gold_not_executed"));
    }
  }
}

void write_reports(const EvalJob& job, const EvalResults& results, const Json& report) {
  const std::filesystem::path folder = job.common.output_dir;
  write_predictions(results, folder / "predictions.jsonl");
  write_file_atomically(folder / "report.json", report.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  std::string score = "score";
  for (const auto& run : results.runs) {
    for (const auto& task : run.tasks) {
      if (!task.scores.empty()) score = task.scores[main_score(task)];
    }
  }
  write_file_atomically(folder / "report.html", eval_page(report, flipped_answers(results), score));
}

}  // namespace

int finish_eval(const EvalJob& job, const EvalResults& results) {
  const Json report = report_json(results, static_cast<uint64_t>(job.common.seed));
  const auto missed = missed_scores(results, job.eval.require);
  warn_about_gold(results);
  if (!job.common.output_dir.empty()) write_reports(job, results, report);
  const bool tsv = !job.eval.per_row.empty() && !job.eval.per_row.ends_with(".jsonl");  // .jsonl is perplexity's
  if (tsv) write_per_row_tsv(results, job.eval.per_row);
  const std::string text = job.common.json ? report.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n"
                                           : terminal_report(report, terminal_width(), stdout_takes_colour());
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
  for (const auto& score : missed) log_error("{}", score);
  return static_cast<int>(missed.empty() ? ExitCode::kOk : ExitCode::kScoreMissed);
}

}  // namespace qlora
