// The task `mmlu`: multiple-choice questions of 57 subjects, answered by the likelihood of the letters A to D.
//
// Prompts and scores are those of lm-evaluation-harness' group `mmlu` with 5 shots.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "qlora/eval/results.h"

namespace qlora {

inline constexpr std::array<const char*, 4> kMmluLetters = {"A", "B", "C", "D"};

struct MmluQuestion {
  std::string question;
  std::array<std::string, 4> choices;
  size_t answer = 0;  // of `choices`

  // "{question}\nA. {choice}\n ... D. {choice}\nAnswer:", the question without white space at its ends.
  std::string text() const;
};

struct MmluSubject {
  std::string name;   // high_school_physics
  std::string group;  // humanities, other, social_sciences, stem
  std::vector<MmluQuestion> shots;
  std::vector<MmluQuestion> questions;

  // What stands before each question: "The following are multiple choice questions (with answers) about {name}.\n\n",
  // then the shots with their answers, a blank line behind each.
  std::string introduction() const;
};

// The subjects of `folder`/test/NAME_test.csv by name, the first five of `folder`/dev/NAME_dev.csv as shots, `limit`
// questions of each. A line: question, four choices, answer (0 to 3, or A to D); a header line may stand first. Warns
// where there are fewer than 57 subjects. Throws DataError with file and line.
std::vector<MmluSubject> read_mmlu(const std::filesystem::path& folder, std::optional<int64_t> limit);

// acc of the most likely letters, overall, by group and by subject: means over questions, as the harness weighs by
// size. `log_likelihoods`: of the four letters, by question, subject after subject.
TaskResult score_mmlu(const std::vector<MmluSubject>& subjects,
                      const std::vector<std::vector<double>>& log_likelihoods);

}  // namespace qlora
