// metrics.jsonl and TensorBoard events of runs that begin, go on, and were killed in the middle of a line.
#include "qlora/train/metrics.h"

#include <gtest/gtest.h>

#include "train/fixtures.h"

namespace qlora {
namespace {

namespace fs = std::filesystem;

Json line(std::int64_t step) {
  return {{"step", step}, {"loss", 1.0 / static_cast<double>(step)}};
}

int event_files(const fs::path& folder) {
  return static_cast<int>(std::distance(fs::directory_iterator(folder / "runs"), fs::directory_iterator()));
}

TEST(Metrics, NumbersKeepAllTheirDigits) {
  const TemporaryFolder folder;
  MetricsFile(folder.path(), 0, false).write(line(3));
  EXPECT_EQ(read_bytes(folder.path() / "metrics.jsonl"), "{\"step\":3,\"loss\":0.3333333333333333}\n");
  EXPECT_EQ(read_metrics(folder.path() / "metrics.jsonl").at(0).at("loss").get<double>(), 1.0 / 3.0);
}

TEST(Metrics, AStepHasItsFields) {
  StepMetrics metrics;
  metrics.step = 2;
  metrics.input_tokens = 50;
  metrics.seconds = 0.25;
  const Json json = metrics.to_json();
  EXPECT_EQ(json.at("tokens_per_second"), 200.0);
  EXPECT_EQ(json.at("step_ms"), 250.0);
}

TEST(Metrics, AResumedRunCutsWhatItWillWriteAgain) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "metrics.jsonl";
  {
    MetricsFile file(folder.path(), 0, true);
    for (std::int64_t step = 1; step <= 5; ++step) file.write(line(step));
  }
  write_bytes(path, read_bytes(path) + "{\"step\": 6, \"lo");  // killed here
  MetricsFile(folder.path(), 3, true).write(line(4));
  const std::vector<Json> lines = read_metrics(path);
  ASSERT_EQ(lines.size(), 4U);
  for (std::int64_t i = 0; i < 4; ++i) EXPECT_EQ(lines[static_cast<std::size_t>(i)], line(i + 1));
  EXPECT_EQ(event_files(folder.path()), 1);
}

TEST(Metrics, AnEvaluationThatIsMadeAgainIsCutOff) {
  const TemporaryFolder folder;
  const Json evaluation{{"step", 3}, {"eval_loss", 1.5}};
  MetricsFile file(folder.path(), 0, false);
  for (const Json& written : {line(2), line(3), evaluation}) file.write(written);
  { const MetricsFile resumed(folder.path(), 3, false); }
  EXPECT_EQ(read_metrics(folder.path() / "metrics.jsonl"), (std::vector<Json>{line(2), line(3), evaluation}));
  { const MetricsFile resumed(folder.path(), 3, false, /*evaluates_again=*/true); }
  EXPECT_EQ(read_metrics(folder.path() / "metrics.jsonl"), (std::vector<Json>{line(2), line(3)}));
}

TEST(Metrics, ANewRunStartsEmpty) {
  const TemporaryFolder folder;
  MetricsFile(folder.path(), 0, true).write(line(1));
  { const MetricsFile anew(folder.path(), 0, false); }
  EXPECT_EQ(read_bytes(folder.path() / "metrics.jsonl"), "");
  EXPECT_FALSE(fs::exists(folder.path() / "runs"));
}

TEST(Metrics, AnEarlierRunsStayUntilTheNewOnesTakeTheirPlace) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "metrics.jsonl";
  MetricsFile(folder.path(), 0, true).write(line(1));
  const auto start_anew = [&] {
    auto file = std::make_unique<MetricsFile>(folder.path(), 0, true, false, /*aside=*/true);
    file->write(line(2));
    return file;
  };
  start_anew();  // fails before it has saved
  EXPECT_EQ(read_metrics(metrics_path(folder.path())), std::vector<Json>{line(1)});
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 2);
  const auto file = start_anew();
  EXPECT_EQ(read_metrics(path), std::vector<Json>{line(1)});
  EXPECT_EQ(read_metrics(metrics_path(folder.path())), std::vector<Json>{line(2)});
  MetricsFile::take_place_of_earlier(folder.path());
  file->write(line(3));
  EXPECT_EQ(read_metrics(path), (std::vector<Json>{line(2), line(3)}));
  EXPECT_EQ(event_files(folder.path()), 1);
}

TEST(Metrics, TrainerStateIsSortedAndIndentedAsTransformersWritesIt) {
  TrainerState state;
  state.global_step = 3;
  state.log_history.push_back({{"step", 3}, {"loss", 0.5}});
  const std::string text = state.text();
  EXPECT_TRUE(text.starts_with("{\n  \"best_global_step\": null,\n  \"best_metric\": null,\n"));
  EXPECT_NE(text.find("    {\n      \"loss\": 0.5,\n      \"step\": 3\n    }"), std::string::npos);
}

}  // namespace
}  // namespace qlora
