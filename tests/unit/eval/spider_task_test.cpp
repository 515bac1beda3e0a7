// The whole task on a small database: scores of both readings, reports, requirements, prediction files.
#include "qlora/eval/spider_task.h"

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "qlora/core/error.h"
#include "qlora/eval/prediction_files.h"
#include "qlora/eval/report_json.h"

#include "eval/sample_database.h"

namespace qlora {
namespace {

using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class SpiderTaskTest : public ::testing::Test {
 protected:
  SpiderTaskTest() {
    for (const char* gold : {"SELECT count(*) FROM singer", "SELECT name , age FROM singer WHERE country = 'France'"}) {
      SpiderQuestion question;
      question.id = questions_.size();
      question.database = "music";
      question.gold = gold;
      questions_.push_back(question);
    }
  }
  EvalResults results(const std::vector<std::string>& base, const std::vector<std::string>& tuned) {
    EvalResults r;
    r.runs.push_back({"base", "", {scorer_.score(questions_, base, Extract::kNone)}});
    r.runs.push_back({"tuned", "out/tuned", {scorer_.score(questions_, tuned, Extract::kNone)}});
    return r;
  }
  std::string read(const std::string& name) const {
    std::ifstream in(files_.folder() / name);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  std::filesystem::path write(const std::string& name, const std::string& text) const {
    std::ofstream(files_.folder() / name) << text;
    return files_.folder() / name;
  }

  SampleDatabase files_;
  SpiderScorer scorer_{files_.tables(), files_.folder() / "database", {5.0, size_t{256} << 20, 1}};
  std::vector<SpiderQuestion> questions_;
  const std::vector<std::string> perfect_ = {"SELECT count(*) FROM singer",
                                             "select age, name from singer where country = 'France'"};
  const std::vector<std::string> prose_ = {"The answer: ```sql\nSELECT count(*) FROM singer;\n```", ""};
};

TEST_F(SpiderTaskTest, GoldScoresOneAgainstItself) {
  const TaskResult task = scorer_.score(questions_, {questions_[0].gold, questions_[1].gold}, Extract::kNone);
  for (const auto& row : task.rows) {
    EXPECT_EQ(row.scores, std::vector<double>(9, 1.0));
    EXPECT_EQ(row.scores, row.other_scores);
    EXPECT_EQ(row.error, "");
  }
  EXPECT_EQ(task.rows[0].group, "easy");
  EXPECT_EQ(task.rows[1].group, "medium");
  EXPECT_EQ(task.details["partial"]["select"]["f1"], 1.0);
}

TEST_F(SpiderTaskTest, EveryScoreOfOneAnswer) {
  const TaskResult task = scorer_.score(questions_, perfect_, Extract::kNone);
  EXPECT_EQ(task.scores, spider_score_names());
  // parsed, exact, execution, exact_string, exact_normalized, token_match (8 of 10 words), syntax_valid,
  // exact_with_values, answer_only
  EXPECT_THAT(task.rows[1].scores, ElementsAre(1, 1, 1, 0, 0, 0.8, 1, 1, 1));
}

TEST_F(SpiderTaskTest, ExactMatchWithValuesComparesThem) {
  const auto scores = [&](const std::string& answer) {
    const EvalRow row = scorer_.score(questions_, {"", answer}, Extract::kNone).rows[1];
    return std::vector<double>{row.scores[1], row.scores[7]};
  };
  EXPECT_THAT(scores("SELECT name , age FROM singer WHERE country = \"France\""), ElementsAre(1, 1));
  EXPECT_THAT(scores("SELECT name , age FROM singer WHERE country = 'Peru'"), ElementsAre(1, 0));
  EXPECT_THAT(scores("SELECT name FROM singer WHERE country = 'France'"), ElementsAre(0, 0));
}

TEST_F(SpiderTaskTest, RowsThatWereComparedStandInTheDetails) {
  const auto task = scorer_.score(questions_, {"SELECT 4.5, 'a', NULL, x'00'", perfect_[1]}, Extract::kNone);
  EXPECT_EQ(task.rows[0].details["gold_result"], "4\n1 row");
  EXPECT_EQ(task.rows[0].details["result"], "4.5 | a | NULL | a blob of 1 bytes\n...");
  EXPECT_EQ(task.rows[1].details["gold_result"], "Ann | 30\nCid | 25\n2 rows");
  EXPECT_FALSE(task.rows[1].details.contains("result"));
  const auto fewer = scorer_.score(questions_, {"", "SELECT name, age FROM singer WHERE name = 'Ann'"}, Extract::kNone);
  EXPECT_FALSE(fewer.rows[0].details.contains("gold_result"));
  EXPECT_EQ(fewer.rows[1].details["result"], "Ann | 30\n1 row");
}

TEST_F(SpiderTaskTest, BothReadingsOfAnAnswerStandBesideEachOther) {
  const TaskResult raw = scorer_.score(questions_, prose_, Extract::kNone);
  const TaskResult sql = scorer_.score(questions_, prose_, Extract::kSql);
  EXPECT_EQ(raw.rows[0].scores[2], 0);
  EXPECT_EQ(raw.rows[0].other_scores[2], 1);
  EXPECT_EQ(raw.other_name, "extracted");
  EXPECT_EQ(sql.rows[0].scores, raw.rows[0].other_scores);
  EXPECT_EQ(sql.rows[0].other_scores, raw.rows[0].scores);
  EXPECT_EQ(sql.rows[0].extracted, questions_[0].gold);
  EXPECT_THAT(raw.rows[0].error, HasSubstr("not executed"));
  EXPECT_EQ(raw.rows[1].error, "no SQL");
  EXPECT_EQ(raw.rows[1].scores, std::vector<double>(9, 0.0));
  EXPECT_THAT((std::vector<double>{raw.rows[0].scores[8], raw.rows[0].other_scores[8]}), ElementsAre(0, 1));
}

// Answers that are right on music.sqlite by chance, and one that runs on the variant alone.
TEST_F(SpiderTaskTest, ExecutionCountsOnEveryDatabaseOfTheFolder) {
  const std::vector<std::string> lucky = {"SELECT 4", "SELECT name , age FROM singer WHERE age < 35"};
  const auto execution = [&](const std::vector<std::string>& answers) {
    SpiderScorer scorer(files_.tables(), files_.folder() / "database", {5.0, size_t{256} << 20, 1});
    const TaskResult task = scorer.score(questions_, answers, Extract::kNone);
    return std::vector<double>{task.rows[0].scores[2], task.rows[1].scores[2]};
  };
  EXPECT_THAT(execution(lucky), ElementsAre(1, 1));
  files_.add_variant("music.sqlite-journal", "CREATE TABLE no_database(a)");  // not a .sqlite file
  EXPECT_THAT(execution(lucky), ElementsAre(1, 1));
  files_.add_variant("a_variant.sqlite",
                     "INSERT INTO singer VALUES (5, 'Dan', 'Peru', 20); DROP TABLE concert;"
                     "CREATE TABLE late(a)");
  EXPECT_THAT(execution(lucky), ElementsAre(0, 0));
  EXPECT_THAT(execution(perfect_), ElementsAre(1, 1));
  EXPECT_THAT(execution({"SELECT count(*) FROM singer, late", questions_[1].gold}), ElementsAre(0, 1));
  std::filesystem::remove(files_.path());  // others do not take its place
  EXPECT_THAT(execution(perfect_), ElementsAre(0, 0));
}

TEST_F(SpiderTaskTest, BrokenGoldIsCountedAndScoresNothing) {
  questions_[0].gold = "SELECT upper(nme) FROM singer";
  const TaskResult task = scorer_.score(questions_, perfect_, Extract::kNone);
  EXPECT_EQ(task.details["gold_not_parsed"], 1);
  EXPECT_EQ(task.details["gold_not_executed"], 1);
  EXPECT_EQ(task.rows[0].scores[2], 0);
  EXPECT_EQ(task.rows[0].group, "extra");
  questions_[0].database = "unknown";
  EXPECT_THROW(scorer_.score(questions_, perfect_, Extract::kNone), DataError);
  EXPECT_THROW(scorer_.score(questions_, {"one"}, Extract::kNone), DataError);
}

TEST_F(SpiderTaskTest, ReportJsonHasRunsAndPairs) {
  const Json report = report_json(results(prose_, perfect_), 1);
  const Json& tuned = report["runs"]["tuned"];
  EXPECT_EQ(tuned["adapter"], "out/tuned");
  EXPECT_TRUE(report["runs"]["base"]["adapter"].is_null());
  const Json& task = tuned["tasks"]["spider"];
  EXPECT_EQ(task["n"], 2);
  EXPECT_EQ(task["overall"]["execution"], 1.0);
  EXPECT_EQ(task["by"]["easy"]["n"], 1);
  EXPECT_EQ(task["by"]["easy"]["exact_string"], 1.0);
  EXPECT_EQ(task["by"]["medium"]["exact_string"], 0.0);
  EXPECT_EQ(task["by"]["hard"]["n"], 0);
  EXPECT_FALSE(task["by"]["hard"].contains("exact"));
  EXPECT_EQ(task["by_database"]["music"]["n"], 2);
  EXPECT_EQ(report["runs"]["base"]["tasks"]["spider"]["extracted"]["execution"], 0.5);
  EXPECT_EQ(report["runs"]["base"]["tasks"]["spider"]["overall"]["execution"], 0.0);
  const Json& paired = report["paired"]["tuned"]["spider"]["execution"];
  EXPECT_EQ(paired["base"], 0.0);
  EXPECT_EQ(paired["tuned"], 1.0);
  EXPECT_EQ(paired["wins"], 2);
  EXPECT_EQ(paired["losses"], 0);
  EXPECT_EQ(paired["ties"], 0);
  EXPECT_EQ(paired["p_value"], 0.5);
  EXPECT_EQ(paired["interval"], Json::array({1.0, 1.0}));
  EXPECT_EQ(paired["by"]["medium"]["wins"], 1);
  EXPECT_FALSE(report["paired"].contains("base"));
  EXPECT_TRUE(report["output_tokens_per_second"].is_null());
}

TEST_F(SpiderTaskTest, PredictionsFileIsReadBackAsItWasWritten) {
  const auto path = files_.folder() / "predictions.jsonl";
  write_predictions(results(prose_, perfect_), path);
  const auto runs = read_predictions(path);
  ASSERT_EQ(runs.size(), 2u);
  EXPECT_EQ(runs[0].name, "base");
  EXPECT_EQ(runs[0].answers, prose_);
  EXPECT_EQ(runs[1].answers, perfect_);
  EXPECT_EQ(runs[1].questions[1].gold, questions_[1].gold);
  EXPECT_EQ(runs[1].questions[1].database, "music");
  const Json line = parse_json(read("predictions.jsonl").substr(0, read("predictions.jsonl").find('\n')), "line");
  EXPECT_EQ(line["extracted"], questions_[0].gold);
  EXPECT_EQ(line["execution"], 0.0);
}

TEST_F(SpiderTaskTest, PerRowFile) {
  EvalResults one;
  one.runs.push_back({"predictions", "", {scorer_.score(questions_, perfect_, Extract::kNone)}});
  EXPECT_EQ(per_row_text(one, "rows.tsv"),
            "index\thardness\tparsed\texact\texecution\n0\teasy\t1\t1\t1\n1\tmedium\t1\t1\t1\n");
  const std::string two = per_row_text(results(prose_, perfect_), "rows.tsv");
  EXPECT_THAT(two, StartsWith("index\thardness\tparsed\texact\texecution\trun\n0\teasy\t0\t0\t0\tbase\n"));
  EXPECT_THAT(two, EndsWith("1\tmedium\t1\t1\t1\ttuned\n"));
}

TEST_F(SpiderTaskTest, RequiredScores) {
  const EvalResults r = results(prose_, perfect_);
  EXPECT_TRUE(missed_scores(r, {{"spider", "execution", 1.0}}).empty());  // the base may be worse
  EXPECT_THAT(missed_scores(r, {{"spider", "exact_string", 0.6}}),
              ElementsAre("tuned: spider.exact_string is 0.5000, required 0.6"));
  EXPECT_THROW(missed_scores(r, {{"mmlu", "accuracy", 0.6}}), UsageError);
}

TEST_F(SpiderTaskTest, SeenAndUnseenDatabases) {
  TaskResult task = scorer_.score(questions_, perfect_, Extract::kNone);
  task.rows[1].part = "other";
  add_seen_unseen(task, {"music", "more"});
  EXPECT_EQ(task.details["seen"]["n"], 1);
  EXPECT_EQ(task.details["seen"]["exact_string"], 1.0);
  EXPECT_EQ(task.details["unseen"]["exact_string"], 0.0);
}

TEST_F(SpiderTaskTest, PlainPredictionFiles) {
  EXPECT_THAT(read_predictions(write("p.txt", "SELECT 1\n\nSELECT 2\tdb\r\n"))[0].answers,
              ElementsAre("SELECT 1", "", "SELECT 2"));
  EXPECT_THAT(read_predictions(write("p.txt", "SELECT 1\n\n"))[0].answers, ElementsAre("SELECT 1", ""));
  EXPECT_THAT(read_predictions(write("p.txt", "SELECT 1"))[0].answers, ElementsAre("SELECT 1"));
  EXPECT_THROW(read_predictions(write("p.txt", "")), DataError);
  EXPECT_THROW(read_predictions(files_.folder() / "absent"), DataError);
  EXPECT_THROW(read_predictions(files_.folder()), DataError);
  EXPECT_THROW(read_predictions(write("p.jsonl", "{\"prediction\": 3}\n")), DataError);
  EXPECT_THROW(read_predictions(write("p.jsonl", "{\"prediction\": \"x\"\n")), DataError);
  EXPECT_THROW(read_predictions(write("p.jsonl", "[1]\n")), DataError);
}

TEST_F(SpiderTaskTest, GoldFiles) {
  const auto gold = read_gold(write("g.sql", "SELECT 1\tmusic\nSELECT 2 \t music \n\n"));
  ASSERT_EQ(gold.size(), 2u);
  EXPECT_EQ(gold[1].gold, "SELECT 2");
  EXPECT_EQ(gold[1].database, "music");
  EXPECT_THROW(read_gold(write("g.sql", "SELECT 1\n")), DataError);
  EXPECT_THROW(read_gold(write("g.sql", "SELECT 1\tm\n\nSELECT 2\tm\n")), DataError);
  EXPECT_THROW(read_gold(write("g.sql", "\n")), DataError);
  EXPECT_THROW(read_gold(files_.folder() / "absent"), DataError);
}

}  // namespace
}  // namespace qlora
