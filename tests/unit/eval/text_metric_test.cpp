#include "qlora/eval/score/text_metric.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "qlora/eval/generate_task.h"
#include "qlora/eval/paired.h"
#include "qlora/eval/report_json.h"
#include "qlora/eval/task_scores.h"

namespace qlora {
namespace {

using ::testing::ElementsAre;

double row_score(const TextMetric& metric, std::string_view prediction, std::string_view gold) {
  return metric.row(metric.counts(prediction, gold));
}

// Of a corpus of one row.
double bleu(std::string_view prediction, std::string_view gold) {
  const TextMetric metric = bleu_metric();
  return metric.corpus(metric.counts(prediction, gold));
}

TEST(TextMetric, BleuByHand) {
  // 5, 3, 1 and no n-gram in common of 6, 5, 4, 3; no brevity: both have six words.
  const double logs = std::log(5.0 / 6) + std::log(3.0 / 5) + std::log(1.0 / 4) + std::log(1.0 / 2 / 3);
  EXPECT_NEAR(bleu("the cat sat on the mat", "the cat lay on the mat"), 100 * std::exp(logs / 4), 1e-9);
  EXPECT_NEAR(bleu("a b c d e", "a b c d e f g"), 100 * std::exp(1 - 7.0 / 5), 1e-9) << "brevity";
  EXPECT_EQ(bleu("a b c", "a b c"), 0.0) << "no 4-gram";
  EXPECT_NEAR(row_score(bleu_metric(), "a b c", "a b c"), 100.0, 1e-9) << "a row leaves it out";
  EXPECT_EQ(bleu("", "a"), 0.0);
  EXPECT_EQ(bleu("a", ""), 0.0);
}

TEST(TextMetric, BleuCutsAsTokenizer13a) {
  const auto words = [](std::string_view text) { return bleu_metric().counts(text, "")[0]; };
  EXPECT_EQ(words("don't stop-motion"), 2);
  EXPECT_EQ(words("3.14 1,000 5-6"), 5) << "a dash after a digit stands alone, points within numbers do not";
  EXPECT_EQ(words("count(*)"), 4);
  EXPECT_EQ(words("a.b, c."), 6);
  EXPECT_EQ(words("&quot;x&quot; &lt;"), 4);
  EXPECT_EQ(words("bro-\nken <skipped>line\n"), 2);
  EXPECT_EQ(words("\xc2\xa0"
                  "a\xe3\x80\x80"
                  "b\xff"),
            2)
      << "other white space, and a broken byte";
}

TEST(TextMetric, ChrfByHand) {
  const TextMetric metric = chrf_metric();
  EXPECT_NEAR(row_score(metric, "a b c d e f", "abcdef"), 100.0, 1e-9);
  // 1-grams 2 of 3 and 2 of 4, 2-grams 1 of 2 and 1 of 3; none of length 3.
  const double precision = (2.0 / 3 + 1.0 / 2 + 0) / 3, recall = (2.0 / 4 + 1.0 / 3 + 0) / 3;
  EXPECT_NEAR(row_score(metric, "abx", "abcd"), 100 * 5 * precision * recall / (4 * precision + recall), 1e-9);
  EXPECT_EQ(row_score(metric, "", "abc"), 0.0);
  EXPECT_EQ(row_score(metric, "abc", ""), 0.0);
  EXPECT_NEAR(row_score(metric, "\xc3\xa9", "\xc3\xa8"), 0.0, 1e-9) << "characters, not bytes";
}

TEST(TextMetric, RougeByHand) {
  EXPECT_NEAR(row_score(rouge1_metric(), "The cat, the dog", "the CAT"), 2.0 * 2 / 6, 1e-12);
  EXPECT_NEAR(row_score(rouge2_metric(), "the cat sat", "the cat ran"), 2.0 * 1 / 4, 1e-12);
  EXPECT_NEAR(row_score(rouge_l_metric(), "a x b y c", "a b c d"), 2.0 * 3 / 9, 1e-12);
  EXPECT_EQ(row_score(rouge_l_metric(), "c b a", "a b c"), 2.0 * 1 / 6);
  EXPECT_EQ(row_score(rouge1_metric(), "", "a"), 0.0);
  EXPECT_EQ(row_score(rouge2_metric(), "a", "a"), 0.0) << "no bigram";
  EXPECT_EQ(row_score(rouge1_metric(), "\xe2\x84\xaa", "k"), 1.0) << "the Kelvin sign is a k in lower case";
  EXPECT_EQ(row_score(rouge1_metric(), "caf\xc3\xa9", "caf"), 1.0);
}

EvalRow answer(const std::string& prediction, const std::string& gold) {
  EvalRow row;
  row.prediction = prediction;
  row.gold = gold;
  return row;
}

TEST(GenerateTask, CorpusScoresComeFromSummedCounts) {
  const TaskResult task =
      score_answers({answer("a b c d e", "a b c d e"), answer("any", ""), answer("x y z w v", "x y q w v")});
  ASSERT_EQ(task.scores, text_score_names());
  EXPECT_EQ(task.details["n_scored"], 2);
  EXPECT_THAT(task.rows[1].scores, ElementsAre());
  EXPECT_NEAR(*score_over_rows(task, 0), 0.5, 1e-12) << "exact_string over rows that have an answer";
  // 9 of 10, 6 of 8, 3 of 6, 2 of 4.
  const double logs = std::log(0.9) + std::log(0.75) + std::log(0.5) + std::log(0.5);
  EXPECT_NEAR(*score_over_rows(task, 1), 100 * std::exp(logs / 4), 1e-9);
  EXPECT_EQ(score_answers({answer("a", "")}).scores.size(), 0u);
}

TEST(GenerateTask, PairsDrawTheCountsAnew) {
  std::vector<EvalRow> poor, good;
  for (int i = 0; i < 40; ++i) {
    good.push_back(answer("the query counts all singers of the band", "the query counts all singers of the band"));
    poor.push_back(answer(i % 2 == 0 ? "the query counts all songs of a band" : "none", good.back().gold));
  }
  EvalResults results;
  results.runs = {{"base", "", {score_answers(poor)}}, {"tuned", "t", {score_answers(good)}}};
  const Json report = report_json(results, 3);
  const Json& pair = report["paired"]["tuned"]["generate"]["bleu"];
  const double base = report["runs"]["base"]["tasks"]["generate"]["overall"]["bleu"];
  EXPECT_EQ(pair["wins"], 40);
  EXPECT_EQ(pair["base"], base);
  EXPECT_NEAR(pair["tuned"].get<double>(), 100.0, 1e-9);
  const double low = pair["interval"][0], high = pair["interval"][1];
  EXPECT_LT(low, 100.0 - base);
  EXPECT_GT(high, 100.0 - base);
  EXPECT_LT(high - low, 25.0);
  double mean_of_rows = 0.0;
  for (const auto& row : results.runs[0].tasks[0].rows) mean_of_rows += row.scores[1] / 40;
  EXPECT_GT(std::abs(mean_of_rows - base), 1.0) << "the corpus score is no mean";
  EXPECT_EQ(best_score("bleu"), 100.0);
  EXPECT_EQ(best_score("rougeL"), 1.0);
}

}  // namespace
}  // namespace qlora
