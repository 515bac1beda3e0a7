// Scores texts: reads lines {"prediction", "gold"} from stdin; a line of JSON a row to stdout ({score: value}), then
// one with the scores over all rows.
#include <cstdio>
#include <iostream>
#include <string>

#include "qlora/eval/generate_task.h"

int main() {
  using namespace qlora;
  std::vector<EvalRow> rows;
  for (std::string line; std::getline(std::cin, line);) {
    const Json json = parse_json(line, "stdin");
    rows.emplace_back();
    rows.back().prediction = json["prediction"].get<std::string>();
    rows.back().gold = json["gold"].get<std::string>();
  }
  const TaskResult task = score_answers(std::move(rows));
  Json overall;
  for (const EvalRow& row : task.rows) {
    Json scores;
    for (std::size_t i = 0; i < row.scores.size(); ++i) scores[task.scores[i]] = row.scores[i];
    std::printf("%s\n", scores.dump().c_str());
  }
  for (std::size_t i = 0; i < task.scores.size(); ++i) overall[task.scores[i]] = score_over_rows(task, i).value();
  std::printf("%s\n", overall.dump().c_str());
}
