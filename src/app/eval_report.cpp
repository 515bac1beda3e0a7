// What every evaluation ends with: files, the table, the check of required scores.
#include <filesystem>
#include <optional>

#include "qlora/app/cost.h"
#include "qlora/app/eval_predictions.h"
#include "qlora/app/output.h"
#include "qlora/core/atomic_file.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/eval/paired.h"
#include "qlora/eval/ratings.h"
#include "qlora/eval/report_json.h"
#include "qlora/eval/task_scores.h"
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
      if (lower_is_better(task.scores[main_score(task)])) continue;  // no answers, and every row changes
      for (const auto& flip : flipped_rows(*of_base, task, main_score(task))) {
        const EvalRow& before = of_base->rows[flip.row];
        const EvalRow& after = task.rows[flip.row];
        const auto rows_of = [](const EvalRow& row, const char* key) { return row.details.value(key, ""); };
        const std::string place = after.id.is_string() ? after.id.get<std::string>() : after.id.dump();
        out.push_back({run.name, place, after.group, after.question, after.gold, before.prediction, after.prediction,
                       before.error, after.error, flip.won, rows_of(after, "gold_result"), rows_of(before, "result"),
                       rows_of(after, "result")});
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

void write_reports(const std::filesystem::path& output, const EvalResults& results, const Json& report) {
  AtomicFolder staged(output / "report");
  const std::filesystem::path& folder = staged.temporary();
  write_predictions(results, folder / "predictions.jsonl");
  write_file_atomically(folder / "report.json", report.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  std::string score = "score";
  for (const auto& run : results.runs) {
    for (const auto& task : run.tasks) {
      if (!task.scores.empty()) score = task.scores[main_score(task)];
    }
  }
  write_file_atomically(folder / "report.html", eval_page(report, flipped_answers(results), score));
  staged.move_out("report.json");
}

void write_files(const EvalJob& job, const EvalResults& results, const Json& report) {
  std::optional<AtomicFile> rows;
  if (!job.eval.per_row.empty()) rows.emplace(job.eval.per_row).write(per_row_text(results, job.eval.per_row));
  std::optional<AtomicFile> sheet, key;
  if (!job.eval.blind.empty()) {
    const BlindSheet blind = make_blind_sheet(results, static_cast<uint64_t>(job.common.seed));
    key.emplace(blind_key(job.eval.blind)).write(blind.key);
    sheet.emplace(job.eval.blind).write(blind.sheet);
  }
  if (!job.common.output_dir.empty()) write_reports(job.common.output_dir, results, report);
  if (rows) rows->commit();
  if (!sheet) return;
  key->commit();
  sheet->commit();
}

}  // namespace

int print_eval_plan(const EvalJob& job, size_t rows, const Json& runs, const std::optional<Json>& seconds) {
  if (job.common.json) {
    Json plan = {{"rows", rows}, {"runs", runs}, {"tasks", job.eval.tasks}};
    if (seconds) plan["estimated_seconds"] = *seconds;
    print_text(json_line(plan));
    return static_cast<int>(ExitCode::kOk);
  }
  std::vector<std::string> names;
  for (const auto& run : runs) names.push_back(run["name"].get<std::string>());
  std::string text =
      fmt::format("{} rows; tasks: {}; runs: {}\n", rows, fmt::join(job.eval.tasks, ", "), fmt::join(names, ", "));
  for (const auto& run : runs) {
    if (run.contains("bytes")) text += run["name"].get<std::string>() + "\n" + bytes_text(run["bytes"]);
  }
  print_text(seconds ? text + time_text(*seconds) : text);
  return static_cast<int>(ExitCode::kOk);
}

int finish_eval(const EvalJob& job, EvalResults results) {
  if (!job.eval.ratings.empty()) add_ratings(results, job.eval.ratings);
  const Json report = report_json(results, static_cast<uint64_t>(job.common.seed));
  const auto missed = missed_scores(results, job.eval.require);
  warn_about_gold(results);
  write_files(job, results, report);
  print_text(job.common.json ? json_line(report) : terminal_report(report, terminal_width(), stdout_takes_colour()));
  for (const auto& score : missed) log_error("{}", score);
  return static_cast<int>(missed.empty() ? ExitCode::kOk : ExitCode::kScoreMissed);
}

}  // namespace qlora
