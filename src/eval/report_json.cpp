#include "qlora/eval/report_json.h"

#include <algorithm>
#include <set>

#include <spdlog/fmt/fmt.h>

#include "qlora/core/atomic_file.h"
#include "qlora/core/error.h"
#include "qlora/eval/paired.h"
#include "qlora/eval/task_scores.h"

namespace qlora {
namespace {

Json scores_of(const TaskResult& task, const std::string& group, const std::string& part) {
  Json out;
  out["n"] = std::count_if(task.rows.begin(), task.rows.end(), [&](const EvalRow& row) {
    return (group.empty() || row.group == group) && (part.empty() || row.part == part);
  });
  for (size_t i = 0; i < task.scores.size(); ++i) {
    if (const auto score = score_over_rows(task, i, group, part)) out[task.scores[i]] = *score;
  }
  return out;
}

// Means of the other reading of the answers; null where there is none.
Json other_means(const TaskResult& task) {
  Json out;
  for (size_t i = 0; i < task.scores.size(); ++i) {
    double sum = 0.0;
    for (const auto& row : task.rows) {
      if (row.other_scores.size() != task.scores.size()) return nullptr;
      sum += row.other_scores[i];
    }
    if (!task.rows.empty()) out[task.scores[i]] = sum / static_cast<double>(task.rows.size());
  }
  return out;
}

Json task_json(const TaskResult& task) {
  Json out;
  out["n"] = task.rows.size();
  out["overall"] = scores_of(task, "", "");
  out["overall"].erase("n");
  for (const auto& [name, value] : task.overall) out["overall"][name] = value;
  out["by"] = Json::object();
  for (const auto& group : task.groups) out["by"][group] = scores_of(task, group, "");
  std::set<std::string> parts;
  for (const auto& row : task.rows) parts.insert(row.part);
  parts.erase("");
  for (const auto& part : parts) out["by_" + task.part_name][part] = scores_of(task, "", part);
  if (const Json other = other_means(task); !task.other_name.empty() && !other.is_null()) out[task.other_name] = other;
  for (const auto& [key, value] : task.details.items()) out[key] = value;
  return out;
}

Json paired_json(const TaskResult& base, const TaskResult& tuned, size_t score, const std::string& group,
                 uint64_t seed) {
  const PairedScore paired = compare_tasks(base, tuned, score, group, seed);
  return {{"base", paired.base}, {"tuned", paired.tuned},     {"wins", paired.wins},        {"losses", paired.losses},
          {"ties", paired.ties}, {"p_value", paired.p_value}, {"interval", paired.interval}};
}

Json paired_task(const TaskResult& base, const TaskResult& tuned, uint64_t seed) {
  check_same_rows(base, tuned);
  Json out = Json::object();
  for (size_t i = 0; i < tuned.scores.size(); ++i) {
    const auto in_base = std::find(base.scores.begin(), base.scores.end(), tuned.scores[i]);
    if (in_base != base.scores.begin() + static_cast<std::ptrdiff_t>(i)) continue;
    Json& entry = out[tuned.scores[i]] = paired_json(base, tuned, i, "", seed);
    for (const auto& group : tuned.groups) entry["by"][group] = paired_json(base, tuned, i, group, seed);
  }
  return out;
}

std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// Lines of one run; `end` closes each.
std::string spider_lines(const TaskResult& task, const std::string& end) {
  std::string text;
  for (size_t i = 0; i < task.rows.size(); ++i) {
    text += fmt::format("{}\t{}", i, task.rows[i].group);
    for (const char* name : {"parsed", "exact", "execution"}) {
      const auto score = std::find(task.scores.begin(), task.scores.end(), name) - task.scores.begin();
      text += task.rows[i].scores.at(static_cast<size_t>(score)) > 0 ? "\t1" : "\t0";
    }
    text += end;
  }
  return text;
}

std::string perplexity_lines(const TaskResult& task, const std::optional<std::string>& run) {
  std::string text;
  for (const auto& row : task.rows) {
    Json line = {{"id", row.id}, {"nll", row.nll}, {"tokens", row.tokens}};
    if (run) line["run"] = *run;
    text += dump(line) + "\n";
  }
  return text;
}

double required_value(const EvalRun& run, const RequiredScore& required) {
  const TaskResult* task = find_task(run, required.task);
  if (task == nullptr) throw UsageError(fmt::format("require: the task '{}' was not scored", required.task));
  const auto score = std::find(task->scores.begin(), task->scores.end(), required.score) - task->scores.begin();
  const auto value = score_over_rows(*task, static_cast<size_t>(score));
  if (!value) throw DataError(fmt::format("require: no row of the task '{}' could be scored", required.task));
  return *value;
}

}  // namespace

Json report_json(const EvalResults& results, uint64_t seed) {
  Json out;
  out["runs"] = Json::object();
  out["paired"] = Json::object();
  const EvalRun* base = find_base(results);
  for (const auto& run : results.runs) {
    Json& entry = out["runs"][run.name];
    entry["adapter"] = run.adapter.empty() ? Json(nullptr) : Json(run.adapter);
    if (!run.predictions.empty()) entry["predictions"] = run.predictions;
    entry["tasks"] = Json::object();
    for (const auto& task : run.tasks) {
      entry["tasks"][task.task] = task_json(task);
      const TaskResult* of_base = base == nullptr || base == &run ? nullptr : find_task(*base, task.task);
      if (of_base != nullptr) out["paired"][run.name][task.task] = paired_task(*of_base, task, seed);
    }
  }
  out["paired_with"] = base != nullptr ? Json(base->name) : Json(nullptr);
  out["seconds"] = results.seconds;
  out["output_tokens_per_second"] =
      results.output_tokens_per_second ? Json(*results.output_tokens_per_second) : Json(nullptr);
  return out;
}

void write_predictions(const EvalResults& results, const std::filesystem::path& path) {
  AtomicFile file(path);
  for (const auto& run : results.runs) {
    for (const auto& task : run.tasks) {
      for (const auto& row : task.rows) {
        Json line = {{"run", run.name},
                     {"task", task.task},
                     {"id", row.id},
                     {"prompt", row.prompt},
                     {"prediction", row.prediction},
                     {"extracted", row.extracted},
                     {"gold", row.gold},
                     {"question", row.question},
                     {task.part_name == "database" ? "db_id" : task.part_name, row.part},
                     {"group", row.group}};
        for (size_t i = 0; i < row.scores.size(); ++i) line[task.scores.at(i)] = row.scores[i];
        line.update(row.details);
        if (!row.error.empty()) line["error"] = row.error;
        file.write(dump(line) + "\n");
      }
    }
  }
  file.commit();
}

std::string per_row_text(const EvalResults& results, const std::string& path) {
  const std::string name = per_row_task(path);
  const bool several = results.runs.size() > 1;
  std::string text;
  if (name == "spider") text = fmt::format("index\thardness\tparsed\texact\texecution{}\n", several ? "\trun" : "");
  for (const auto& run : results.runs) {
    const TaskResult* task = find_task(run, name);
    if (task == nullptr) continue;
    text += name == "spider" ? spider_lines(*task, several ? "\t" + run.name + "\n" : "\n")
                             : perplexity_lines(*task, several ? std::optional(run.name) : std::nullopt);
  }
  return text;
}

std::vector<std::string> missed_scores(const EvalResults& results, const std::vector<RequiredScore>& required) {
  std::vector<std::string> missed;
  for (const auto& run : results.runs) {
    if (run.name == "base" && results.runs.size() > 1) continue;
    for (const auto& r : required) {
      const double value = required_value(run, r);
      if (value >= r.minimum) continue;
      missed.push_back(fmt::format("{}: {}.{} is {:.4f}, required {}", run.name, r.task, r.score, value, r.minimum));
    }
  }
  return missed;
}

}  // namespace qlora
