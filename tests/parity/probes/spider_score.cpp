// Scores a file of predictions: one line a question to stdout (index, hardness, parsed, exact, execution,
// syntax_valid), then one line of JSON with the partial scores and the seconds that scoring took. usage:
// probe_spider_score TABLES DB_DIR GOLD PREDICTIONS [SECONDS [plug]]
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

#include "qlora/eval/prediction_files.h"
#include "qlora/eval/spider_task.h"

int main(int argc, char** argv) {
  using namespace qlora;
  if (argc < 5) return 2;
  try {
    const auto gold = read_gold(argv[3]);
    const auto run = read_predictions(argv[4]).at(0);
    const auto start = std::chrono::steady_clock::now();
    SandboxLimits limits;
    if (argc > 5) limits.seconds = std::atof(argv[5]);
    SpiderScorer scorer(argv[1], argv[2], limits, argc > 6 && std::string(argv[6]) == "plug");
    const TaskResult task = scorer.score(gold, run.answers, Extract::kNone);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    for (size_t i = 0; i < task.rows.size(); ++i) {
      const auto& scores = task.rows[i].scores;
      std::printf("%zu\t%s\t%.0f\t%.0f\t%.0f\t%.0f\n", i, task.rows[i].group.c_str(), scores[0], scores[1], scores[2],
                  scores[6]);
    }
    const Json last = {{"partial", task.details["partial"]}, {"seconds", seconds.count()}};
    std::printf("%s\n", last.dump().c_str());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
