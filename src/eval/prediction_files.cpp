#include "qlora/eval/prediction_files.h"

#include <algorithm>
#include <fstream>
#include <iterator>

#include <spdlog/fmt/fmt.h>

#include "qlora/core/error.h"
#include "qlora/eval/score/sql_text.h"

namespace qlora {
namespace {

// Lines without their ends; the end of the last one makes no further line.
std::vector<std::string> read_lines(const std::filesystem::path& path, const char* what) {
  std::ifstream in(path, std::ios::binary);
  if (!in || std::filesystem::is_directory(path)) {
    throw DataError(fmt::format("{}: cannot be read; `{}` names a file", path.string(), what));
  }
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) {
    if (line.ends_with('\r')) line.pop_back();
    lines.push_back(std::move(line));
  }
  return lines;
}

std::string text_of(const Json& line, const char* key, const std::string& place, bool required) {
  const auto found = line.find(key);
  if (found != line.end() && found->is_string()) return found->get<std::string>();
  if (required) throw DataError(fmt::format("{}: no text '{}' in it", place, key));
  return "";
}

void add_json_line(const std::string& text, const std::string& place, const std::string& wanted,
                   std::vector<PredictedRun>& runs) {
  const Json line = parse_json(text, place);
  if (!line.is_object()) throw DataError(fmt::format("{}: not a JSON object", place));
  const std::string task = text_of(line, "task", place, false);
  if (!task.empty() && task != wanted) return;
  const std::string name = text_of(line, "run", place, false);
  auto run = std::find_if(runs.begin(), runs.end(), [&](const PredictedRun& r) { return r.name == name; });
  if (run == runs.end()) run = runs.insert(runs.end(), PredictedRun{name, "", {}, {}});
  SpiderQuestion question;
  question.id = line.contains("id") ? line["id"] : Json(run->answers.size());
  question.gold = text_of(line, "gold", place, false);
  question.database = text_of(line, "db_id", place, false);
  question.question = text_of(line, "question", place, false);
  question.prompt = text_of(line, "prompt", place, false);
  run->answers.push_back(text_of(line, "prediction", place, true));
  run->questions.push_back(std::move(question));
}

// The runs by the names that the lines give them; a lone one may have none.
std::vector<PredictedRun> read_runs(const std::filesystem::path& path, const std::string& task) {
  const auto lines = read_lines(path, "predictions");
  const bool json = path.extension() == ".jsonl" || (!lines.empty() && lines[0].starts_with('{'));
  std::vector<PredictedRun> runs;
  if (json) {
    for (size_t i = 0; i < lines.size(); ++i) {
      if (!trim(lines[i]).empty()) add_json_line(lines[i], fmt::format("{}:{}", path.string(), i + 1), task, runs);
    }
  } else {
    runs.push_back({"", "", {}, {}});
    for (const auto& line : lines) runs[0].answers.emplace_back(trim(line.substr(0, line.find('\t'))));
  }
  if (runs.empty() || runs[0].answers.empty())
    throw DataError(fmt::format("{}: no predictions of the task {} in it", path.string(), task));
  for (PredictedRun& run : runs) run.file = path.string();
  return runs;
}

std::string name_of_file(const std::filesystem::path& path) {
  const std::filesystem::path folder = std::filesystem::absolute(path).parent_path().filename();
  return path.stem() == "predictions" && !folder.empty() ? folder.string() : path.stem().string();
}

}  // namespace

std::vector<PredictedRun> read_predictions(const std::filesystem::path& path, const std::string& task) {
  std::vector<PredictedRun> runs = read_runs(path, task);
  if (runs.size() == 1) runs[0].name = "predictions";
  return runs;
}

std::vector<PredictedRun> read_predictions(const std::vector<std::string>& paths, const std::string& task) {
  if (paths.size() == 1) return read_predictions(std::filesystem::path(paths[0]), task);
  std::vector<PredictedRun> all;
  const auto taken = [&](const std::string& name) {
    return std::any_of(all.begin(), all.end(), [&](const PredictedRun& run) { return run.name == name; });
  };
  for (const std::string& path : paths) {
    for (PredictedRun& run : read_runs(path, task)) {
      if (run.name.empty() || taken(run.name)) run.name = name_of_file(path);
      const std::string name = run.name;
      for (int i = 2; taken(run.name); ++i) run.name = fmt::format("{}-{}", name, i);
      all.push_back(std::move(run));
    }
  }
  return all;
}

std::vector<SpiderQuestion> read_gold(const std::filesystem::path& path) {
  auto lines = read_lines(path, "gold");
  while (!lines.empty() && trim(lines.back()).empty()) lines.pop_back();
  std::vector<SpiderQuestion> questions;
  for (size_t i = 0; i < lines.size(); ++i) {
    const std::string_view line = trim(lines[i]);
    const size_t tab = line.find('\t');
    if (tab == std::string_view::npos || trim(line.substr(tab)).empty()) {
      throw DataError(fmt::format("{}:{}: a line is the gold SQL, a tab, the db_id", path.string(), i + 1));
    }
    const std::string_view database = trim(line.substr(tab + 1));
    SpiderQuestion question;
    question.id = i;
    question.gold = trim(line.substr(0, tab));
    question.database = database.substr(0, database.find('\t'));
    questions.push_back(std::move(question));
  }
  if (questions.empty()) throw DataError(fmt::format("{}: no gold SQL in it", path.string()));
  return questions;
}

}  // namespace qlora
