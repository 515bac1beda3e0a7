#include "qlora/eval/mmlu_task.h"

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/fmt/fmt.h>

#include "qlora/core/error.h"
#include "qlora/eval/report_json.h"

#include "support/temporary_folder.h"

namespace qlora {
namespace {

using ::testing::HasSubstr;

class Mmlu : public testing::Test {
 protected:
  Mmlu() {
    for (const char* name : {"anatomy", "us_foreign_policy", "virology"}) {
      write("dev", name, "question,choice0,choice1,choice2,choice3,answer\n" + lines(6, "shot"));
      write("test", name, lines(name[0] == 'v' ? 4 : 2, "asked"));
    }
  }

  static std::string lines(int count, const std::string& word) {
    std::string text;
    for (int i = 0; i < count; ++i) text += fmt::format("\" {} {}, \nso \",a,b,c,\"d, e\",{}\n", word, i, i % 4);
    return text;
  }

  void write(const std::string& part, const std::string& name, const std::string& text) {
    std::filesystem::create_directories(folder_.path() / part);
    std::ofstream(folder_.path() / part / (name + "_" + part + ".csv")) << text;
  }

  std::string problem() {
    try {
      read_mmlu(folder_.path(), std::nullopt);
    } catch (const DataError& error) {
      return error.what();
    }
    return "";
  }

  TemporaryFolder folder_;
};

TEST_F(Mmlu, PromptsAreTheHarness) {
  const auto subjects = read_mmlu(folder_.path(), 1);
  ASSERT_EQ(subjects.size(), 3u);
  EXPECT_EQ(subjects[1].name, "us_foreign_policy");
  EXPECT_EQ(subjects[1].group, "social_sciences");
  EXPECT_EQ(subjects[1].questions.size(), 1u);
  const auto asked = [](const char* word, int i) {
    return fmt::format("{} {}, \nso\nA. a\nB. b\nC. c\nD. d, e\nAnswer:", word, i);
  };
  std::string want = "The following are multiple choice questions (with answers) about us foreign policy.\n\n";
  for (int i = 0; i < 5; ++i) want += asked("shot", i) + " " + "ABCDA"[i] + "\n\n";
  EXPECT_EQ(subjects[1].introduction(), want);
  EXPECT_EQ(subjects[1].questions[0].text(), asked("asked", 0));
}

TEST_F(Mmlu, ScoresBySubjectByGroupAndOverAllQuestions) {
  const auto subjects = read_mmlu(folder_.path(), std::nullopt);
  std::vector<std::vector<double>> likelihoods(8, {-1.0, -2.0, -3.0, -4.0});  // A
  likelihoods[1] = {-3.0, -2.0, -3.0, -4.0};                                  // B, as asked
  likelihoods[5] = {-3.0, -2.0, -2.0, -4.0};                                  // of equals the first
  EvalResults results;
  results.runs.push_back({"base", "", {score_mmlu(subjects, likelihoods)}});
  const Json task = report_json(results, 1)["runs"]["base"]["tasks"]["mmlu"];
  EXPECT_EQ(task["n"], 8);
  EXPECT_DOUBLE_EQ(task["overall"]["acc"], 5.0 / 8) << "by question, not by subject";
  EXPECT_EQ(task["by"]["stem"], (Json{{"n", 2}, {"acc", 1.0}}));
  EXPECT_EQ(task["by"]["other"], (Json{{"n", 4}, {"acc", 0.5}}));
  EXPECT_EQ(task["by"]["social_sciences"]["acc"], 0.5);
  EXPECT_EQ(task["by_subject"]["virology"], (Json{{"n", 4}, {"acc", 0.5}}));
  const auto path = folder_.path() / "predictions.jsonl";
  write_predictions(results, path);
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  const Json row = parse_json(line, "line");
  EXPECT_EQ(row["id"], "anatomy/0");
  EXPECT_EQ(row["subject"], "anatomy");
  EXPECT_EQ(row["log_likelihoods"], Json(likelihoods[0]));
}

TEST_F(Mmlu, BadFilesAreNamed) {
  write("test", "anatomy", lines(1, "asked") + "q,a,b,c,d,4\n");
  EXPECT_THAT(problem(), HasSubstr("anatomy_test.csv:3: a line is a question"));
  write("test", "anatomy", "q,a,b,c,D\n");
  EXPECT_THAT(problem(), HasSubstr("anatomy_test.csv:1"));
  write("test", "anatomy", "q,a,b,c,d,D\n");
  EXPECT_EQ(read_mmlu(folder_.path(), std::nullopt)[0].questions[0].answer, 3u) << "letters, too";
  write("dev", "anatomy", lines(4, "shot"));
  EXPECT_THAT(problem(), HasSubstr("anatomy_dev.csv: 4 questions; 5"));
  write("test", "astrology", lines(1, "asked"));
  EXPECT_THAT(problem(), HasSubstr("astrology_test.csv: MMLU has no subject of this name"));
  std::filesystem::remove_all(folder_.path() / "test");
  EXPECT_THAT(problem(), HasSubstr("no folder test"));
}

}  // namespace
}  // namespace qlora
