#include "qlora/eval/mmlu_task.h"

#include <algorithm>
#include <map>

#include <spdlog/fmt/fmt.h>

#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/formats/csv.h"
#include "qlora/text/jinja/unicode.h"

namespace qlora {
namespace {

namespace fs = std::filesystem;

constexpr size_t kShots = 5;
constexpr std::array<const char*, 4> kGroups = {"humanities", "other", "social_sciences", "stem"};

const std::map<std::string, std::string>& groups_of_subjects() {
  static const std::map<std::string, std::string> groups = [] {
    const std::map<std::string, std::vector<std::string>> subjects = {
        {"humanities",
         {"formal_logic", "high_school_european_history", "high_school_us_history", "high_school_world_history",
          "international_law", "jurisprudence", "logical_fallacies", "moral_disputes", "moral_scenarios", "philosophy",
          "prehistory", "professional_law", "world_religions"}},
        {"other",
         {"business_ethics", "clinical_knowledge", "college_medicine", "global_facts", "human_aging", "management",
          "marketing", "medical_genetics", "miscellaneous", "nutrition", "professional_accounting",
          "professional_medicine", "virology"}},
        {"social_sciences",
         {"econometrics", "high_school_geography", "high_school_government_and_politics", "high_school_macroeconomics",
          "high_school_microeconomics", "high_school_psychology", "human_sexuality", "professional_psychology",
          "public_relations", "security_studies", "sociology", "us_foreign_policy"}},
        {"stem",
         {"abstract_algebra", "anatomy", "astronomy", "college_biology", "college_chemistry",
          "college_computer_science", "college_mathematics", "college_physics", "computer_security",
          "conceptual_physics", "electrical_engineering", "elementary_mathematics", "high_school_biology",
          "high_school_chemistry", "high_school_computer_science", "high_school_mathematics", "high_school_physics",
          "high_school_statistics", "machine_learning"}}};
    std::map<std::string, std::string> by_subject;
    for (const auto& [group, names] : subjects) {
      for (const auto& name : names) by_subject[name] = group;
    }
    return by_subject;
  }();
  return groups;
}

// 0 to 3, or A to D.
std::optional<size_t> answer_of(const std::string& field) {
  if (field.size() != 1) return std::nullopt;
  if (field[0] >= '0' && field[0] <= '3') return static_cast<size_t>(field[0] - '0');
  if (field[0] >= 'A' && field[0] <= 'D') return static_cast<size_t>(field[0] - 'A');
  return std::nullopt;
}

std::vector<MmluQuestion> read_questions(const fs::path& path) {
  std::vector<MmluQuestion> questions;
  bool first = true;
  for (CsvRecord& record : read_csv(path)) {
    const bool header = first && !record.fields.empty() && record.fields.back() == "answer";
    first = false;
    if (header) continue;
    const auto answer = record.fields.size() == 6 ? answer_of(record.fields[5]) : std::nullopt;
    if (!answer) {
      throw DataError(fmt::format("{}:{}: a line is a question, four choices and the answer, 0 to 3 or A to D",
                                  path.string(), record.line));
    }
    MmluQuestion question{std::move(record.fields[0]), {}, *answer};
    for (size_t c = 0; c < 4; ++c) question.choices[c] = std::move(record.fields[c + 1]);
    questions.push_back(std::move(question));
  }
  return questions;
}

std::vector<std::string> subjects_in(const fs::path& folder) {
  constexpr std::string_view kEnding = "_test.csv";
  if (!fs::is_directory(folder / "test")) {
    throw DataError(fmt::format("mmlu_dir: {}: there is no folder test in it (test/NAME_test.csv, dev/NAME_dev.csv)",
                                folder.string()));
  }
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder / "test")) {
    const std::string file = entry.path().filename().string();
    if (!file.ends_with(kEnding)) continue;
    names.push_back(file.substr(0, file.size() - kEnding.size()));
    if (!groups_of_subjects().contains(names.back()))
      throw DataError(fmt::format("{}: MMLU has no subject of this name", entry.path().string()));
  }
  std::sort(names.begin(), names.end());
  if (names.empty()) throw DataError(fmt::format("mmlu_dir: {}: no NAME_test.csv in it", (folder / "test").string()));
  if (names.size() < groups_of_subjects().size()) {
    log_warning("mmlu: {} of the {} subjects are in {}: scores are of these alone", names.size(),
                groups_of_subjects().size(), folder.string());
  }
  return names;
}

}  // namespace

std::string MmluQuestion::text() const {
  std::string out(jinja::unicode::strip(question));
  for (size_t c = 0; c < choices.size(); ++c) out += fmt::format("\n{}. {}", kMmluLetters[c], choices[c]);
  return out + "\nAnswer:";
}

std::string MmluSubject::introduction() const {
  std::string subject = name;
  std::replace(subject.begin(), subject.end(), '_', ' ');
  std::string out = fmt::format("The following are multiple choice questions (with answers) about {}.\n\n", subject);
  for (const MmluQuestion& shot : shots) out += fmt::format("{} {}\n\n", shot.text(), kMmluLetters[shot.answer]);
  return out;
}

std::vector<MmluSubject> read_mmlu(const fs::path& folder, std::optional<int64_t> limit) {
  std::vector<MmluSubject> subjects;
  for (const std::string& name : subjects_in(folder)) {
    MmluSubject subject{
        name, groups_of_subjects().at(name), {}, read_questions(folder / "test" / (name + "_test.csv"))};
    const fs::path shots = folder / "dev" / (name + "_dev.csv");
    subject.shots = read_questions(shots);
    if (subject.shots.size() < kShots)
      throw DataError(
          fmt::format("{}: {} questions; {} are shown before each", shots.string(), subject.shots.size(), kShots));
    subject.shots.resize(kShots);
    const size_t most = limit ? static_cast<size_t>(*limit) : subject.questions.size();
    subject.questions.resize(std::min(subject.questions.size(), most));
    subjects.push_back(std::move(subject));
  }
  return subjects;
}

TaskResult score_mmlu(const std::vector<MmluSubject>& subjects,
                      const std::vector<std::vector<double>>& log_likelihoods) {
  TaskResult task;
  task.task = "mmlu";
  task.scores = {"acc"};
  task.groups.assign(kGroups.begin(), kGroups.end());
  task.part_name = "subject";
  for (const MmluSubject& subject : subjects) {
    for (size_t i = 0; i < subject.questions.size(); ++i) {
      const auto& likelihoods = log_likelihoods.at(task.rows.size());
      const auto best = std::max_element(likelihoods.begin(), likelihoods.end()) - likelihoods.begin();
      const MmluQuestion& question = subject.questions[i];
      EvalRow row;
      row.id = fmt::format("{}/{}", subject.name, i);
      row.prompt = question.text();
      row.prediction = kMmluLetters.at(static_cast<size_t>(best));
      row.gold = kMmluLetters.at(question.answer);
      row.question = question.question;
      row.part = subject.name;
      row.group = subject.group;
      row.scores = {row.prediction == row.gold ? 1.0 : 0.0};
      row.details["log_likelihoods"] = likelihoods;
      task.rows.push_back(std::move(row));
    }
  }
  return task;
}

}  // namespace qlora
