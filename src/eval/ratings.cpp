#include "qlora/eval/ratings.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <optional>
#include <set>

#include <spdlog/fmt/fmt.h>

#include "qlora/core/error.h"
#include "qlora/data/random.h"
#include "qlora/eval/score/sql_text.h"
#include "qlora/eval/task_scores.h"
#include "qlora/formats/csv.h"

namespace qlora {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTask = "ratings";
constexpr std::array<const char*, 2> kAnswerTasks = {"spider", "generate"};

bool has_answers(const std::string& task) {
  return std::find(kAnswerTasks.begin(), kAnswerTasks.end(), task) != kAnswerTasks.end();
}

std::string without_formula(const std::string& text) {
  return !text.empty() && std::string_view("=+-@").find(text[0]) != std::string_view::npos ? "'" + text : text;
}

// A sheet's preferences.
struct Preference {
  std::string place;  // file:line
  std::size_t row = 0;
  std::optional<double> for_a;  // 1, 0, or 0.5; nullopt: not judged
};

std::size_t column(const CsvRecord& head, const char* name, const fs::path& sheet) {
  const auto found = std::find(head.fields.begin(), head.fields.end(), name);
  if (found == head.fields.end()) {
    throw DataError(
        fmt::format("{}:{}: no column '{}'; a sheet of --blind has row, id, question, a, b, preference, "
                    "with commas between",
                    sheet.string(), head.line, name));
  }
  return static_cast<std::size_t>(found - head.fields.begin());
}

std::optional<double> preference_of(const std::string& text, const std::string& place) {
  std::string word(trim(text));
  std::transform(word.begin(), word.end(), word.begin(), [](unsigned char c) { return std::tolower(c); });
  if (word.empty()) return std::nullopt;
  if (word == "a") return 1.0;
  if (word == "b") return 0.0;
  if (word == "tie") return 0.5;
  throw DataError(fmt::format("{}: '{}' is no preference: write a, b or tie, or leave it empty", place, text));
}

std::vector<Preference> read_preferences(const fs::path& sheet) {
  const std::vector<CsvRecord> records = read_csv(sheet);
  if (records.empty()) throw DataError(fmt::format("{}: is empty", sheet.string()));
  const std::size_t row = column(records[0], "row", sheet);
  const std::size_t preference = column(records[0], "preference", sheet);
  std::vector<Preference> preferences;
  for (std::size_t i = 1; i < records.size(); ++i) {
    const CsvRecord& record = records[i];
    const std::string place = fmt::format("{}:{}", sheet.string(), record.line);
    if (record.fields.size() <= std::max(row, preference)) throw DataError(fmt::format("{}: too few columns", place));
    const std::string number(trim(record.fields[row]));
    if (number.empty() || number.size() > 9 || number.find_first_not_of("0123456789") != std::string::npos)
      throw DataError(fmt::format("{}: '{}' is no number of a row", place, number));
    preferences.push_back({place, std::stoul(number), preference_of(record.fields[preference], place)});
  }
  return preferences;
}

// The run of this name, made where there is none.
EvalRun& run_of(EvalResults& results, const std::string& name) {
  const auto found =
      std::find_if(results.runs.begin(), results.runs.end(), [&](const EvalRun& run) { return run.name == name; });
  if (found != results.runs.end()) return *found;
  results.runs.push_back({name, "", {}});
  return results.runs.back();
}

// The task of run `side`, its rows without a score.
TaskResult unrated(const Json& key, std::size_t side) {
  TaskResult task;
  task.task = kTask;
  task.scores = score_names(kTask);
  task.groups = key.at("groups").get<std::vector<std::string>>();
  for (const Json& line : key.at("rows")) {
    EvalRow row;
    row.id = line.at("id");
    row.question = line.at("question").get<std::string>();
    row.gold = line.at("gold").get<std::string>();
    row.group = line.at("group").get<std::string>();
    row.prediction = line.at("answers").at(side).get<std::string>();
    task.rows.push_back(std::move(row));
  }
  return task;
}

}  // namespace

fs::path blind_key(const fs::path& sheet) {
  fs::path key = sheet;
  return key.replace_extension(".key.json");
}

void check_blind(const EvalOptions& options, std::size_t runs) {
  if (options.blind.empty()) return;
  if (runs != 2) {
    throw UsageError(
        fmt::format("blind: sets the answers of two runs side by side, and there {} {}; take --baseline and "
                    "one adapter, two adapters, or two runs of predictions",
                    runs == 1 ? "is" : "are", runs));
  }
  if (std::none_of(options.tasks.begin(), options.tasks.end(), has_answers))
    throw UsageError("blind: only spider and generate have answers to judge; `tasks` has neither");
  for (const fs::path& path : {fs::path(options.blind), blind_key(options.blind)}) {
    if (fs::exists(path))
      throw UsageError(fmt::format("blind: {} is there already, and people may have worked on it; name another file",
                                   path.string()));
  }
}

BlindSheet make_blind_sheet(const EvalResults& results, std::uint64_t seed) {
  const EvalRun &first = results.runs.at(0), &second = results.runs.at(1);
  const auto task =
      std::find_if(first.tasks.begin(), first.tasks.end(), [](const TaskResult& t) { return has_answers(t.task); });
  const TaskResult* other = find_task(second, task->task);
  Json key{{"task", task->task},
           {"seed", seed},
           {"runs", {first.name, second.name}},
           {"groups", task->groups},
           {"rows", Json::array()}};
  BlindSheet blind;
  blind.sheet = csv_line({"row", "id", "question", "a", "b", "preference"});
  auto generator = seeded_generator(seed, 0x626c696e64);
  for (std::size_t i = 0; i < task->rows.size(); ++i) {
    const EvalRow& row = task->rows[i];
    const std::array<std::string, 2> answers = {row.prediction, other->rows.at(i).prediction};
    const std::size_t a = random_below(generator, 2);
    const std::string id = row.id.is_string() ? row.id.get<std::string>() : row.id.dump();
    blind.sheet += csv_line(
        {std::to_string(i), without_formula(id), without_formula(row.question.empty() ? row.prompt : row.question),
         without_formula(answers[a]), without_formula(answers[1 - a]), answers[0] == answers[1] ? "tie" : ""});
    key["rows"].push_back({{"row", i},
                           {"id", row.id},
                           {"a", a == 0 ? first.name : second.name},
                           {"question", row.question},
                           {"gold", row.gold},
                           {"group", row.group},
                           {"answers", answers}});
  }
  blind.key = key.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
  return blind;
}

void add_ratings(EvalResults& results, const fs::path& sheet) {
  const Json key = read_json(blind_key(sheet));
  const auto names = key.at("runs").get<std::vector<std::string>>();
  std::array<TaskResult, 2> tasks = {unrated(key, 0), unrated(key, 1)};
  std::set<std::size_t> seen;
  std::size_t judged = 0;
  for (const Preference& preference : read_preferences(sheet)) {
    if (preference.row >= tasks[0].rows.size())
      throw DataError(
          fmt::format("{}: there is no row {} in {}", preference.place, preference.row, blind_key(sheet).string()));
    if (!seen.insert(preference.row).second)
      throw DataError(fmt::format("{}: row {} is there twice", preference.place, preference.row));
    if (!preference.for_a) continue;
    ++judged;
    const bool first_is_a = key.at("rows").at(preference.row).at("a") == names.at(0);
    const double for_first = first_is_a ? *preference.for_a : 1.0 - *preference.for_a;
    tasks[0].rows[preference.row].scores = {for_first};
    tasks[1].rows[preference.row].scores = {1.0 - for_first};
  }
  if (judged == 0) throw DataError(fmt::format("{}: no row has a preference", sheet.string()));
  for (std::size_t side = 0; side < 2; ++side) {
    tasks[side].details["n_scored"] = judged;
    run_of(results, names.at(side)).tasks.push_back(std::move(tasks[side]));
  }
  if (find_base(results) == nullptr) results.base = names.at(0);
}

}  // namespace qlora
