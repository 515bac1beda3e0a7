#include "qlora/eval/task_scores.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "qlora/core/error.h"
#include "qlora/eval/report_json.h"

namespace qlora {
namespace {

using ::testing::HasSubstr;

// What check_eval_options refuses these options with; empty where it accepts them.
std::string problem(std::vector<std::string> tasks, std::vector<RequiredScore> require, std::string per_row = "") {
  EvalOptions options;
  options.tasks = std::move(tasks);
  options.require = std::move(require);
  options.per_row = std::move(per_row);
  try {
    check_eval_options(options);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "";
}

TEST(TaskScores, RequiredScoresExistAndAreBetterWhenHigher) {
  for (const auto& name : score_names("spider")) EXPECT_EQ(problem({"spider"}, {{"spider", name, 0.5}}), "");
  EXPECT_THAT(problem({"generate"}, {{"spider", "execution", 0.5}}), HasSubstr("'spider'"));
  EXPECT_EQ(problem({"generate"}, {{"generate", "bleu", 20}}), "");
  EXPECT_THAT(problem({"generate"}, {{"generate", "meteor", 0.5}}), HasSubstr("bleu, chrf, rouge1, rouge2, rougeL"));
  const std::string unknown = problem({"spider"}, {{"spider", "execution", 0.5}, {"spider", "bleu", 0.5}});
  EXPECT_THAT(unknown, HasSubstr("'bleu'"));
  for (const auto& name : score_names("spider")) EXPECT_THAT(unknown, HasSubstr(name));
  EXPECT_THAT(problem({"perplexity"}, {{"perplexity", "bleu", 0.5}}), HasSubstr("nll, loss, perplexity"));
  for (const char* name : {"nll", "loss", "perplexity"})
    EXPECT_THAT(problem({"perplexity"}, {{"perplexity", name, 0.5}}), HasSubstr("less is better")) << name;
}

TEST(TaskScores, PerRowNeedsItsTask) {
  EXPECT_EQ(problem({"spider"}, {}, "rows.tsv"), "");
  EXPECT_EQ(problem({"perplexity"}, {}, "rows.jsonl"), "");
  EXPECT_EQ(problem({"spider", "perplexity"}, {}, "rows.jsonl"), "");
  EXPECT_THAT(problem({"spider"}, {}, "rows.jsonl"), HasSubstr("perplexity"));
  EXPECT_THAT(problem({"perplexity"}, {}, "rows.tsv"), HasSubstr("spider"));
  EXPECT_THAT(problem({"generate"}, {}, "rows.jsonl"), HasSubstr("predictions.jsonl"));
}

TEST(TaskScores, PerRowLossesSayTheirRunWhereThereAreSeveral) {
  TaskResult task;
  task.task = "perplexity";
  task.scores = {"nll"};
  task.rows.emplace_back();
  task.rows[0].id = "a";
  task.rows[0].nll = 3.0;
  task.rows[0].tokens = 2;
  task.rows[0].scores = {1.5};
  EvalResults results;
  results.runs.push_back({"base", "", {task}});
  EXPECT_EQ(parse_json(per_row_text(results, "r.jsonl"), "line"), (Json{{"id", "a"}, {"nll", 3.0}, {"tokens", 2}}));
  task.rows[0].scores = {1.0};
  results.runs.push_back({"tuned", "out/tuned", {task}});
  EXPECT_THAT(per_row_text(results, "r.jsonl"), HasSubstr("\"run\":\"tuned\""));
  const Json pair = report_json(results, 1)["paired"]["tuned"]["perplexity"]["nll"];
  EXPECT_EQ(pair["wins"], 1) << "the loss went down";
  EXPECT_EQ(pair["losses"], 0);
}

}  // namespace
}  // namespace qlora
