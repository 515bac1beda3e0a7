// report.html of an evaluation, made from report.json and the rows that flipped.
#pragma once

#include <string>
#include <vector>

#include "qlora/core/json.h"

namespace qlora {

// A row that one run scores and the other does not.
struct FlippedAnswer {
  std::string run;    // the tuned run
  std::string place;  // which row: its id
  std::string group;
  std::string question;
  std::string gold;
  std::string base_answer;
  std::string tuned_answer;
  std::string base_error;  // why it scored nothing
  std::string tuned_error;
  bool won = false;  // the tuned run scores it
  // The first rows that they gave, where they were run; empty for an answer whose rows are the gold's.
  std::string gold_result, base_result, tuned_result;
};

// `report` as interface and report_json have it. `score` names the score whose flips are shown.
std::string eval_page(const Json& report, const std::vector<FlippedAnswer>& flipped, const std::string& score);

}  // namespace qlora
