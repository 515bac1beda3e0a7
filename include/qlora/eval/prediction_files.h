// Files of predictions and of gold SQL, as evaluators pass them around.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "qlora/eval/spider_task.h"

namespace qlora {

// The answers of one run, and what the file says about its questions (predictions.jsonl does; empty for plain lines).
struct PredictedRun {
  std::string name;  // "predictions", or the `run` of the lines where there are several
  std::string file;
  std::vector<std::string> answers;
  std::vector<SpiderQuestion> questions;
};

// Plain text: one SQL a line, what follows a tab is dropped (as the official evaluator does), an empty line is an empty
// prediction. A predictions.jsonl (by its ending, or because the first line is a JSON object): `prediction` of each
// line, apart by `run`; lines that say a `task` count where it is this one. Throws DataError with file and line.
std::vector<PredictedRun> read_predictions(const std::filesystem::path& path, const std::string& task = "spider");

// The runs of several files. Those of a name that is taken, or that have none of their own, are called as their file
// is, or (predictions.jsonl) its folder; where that is taken, too, -2 and so on is added.
std::vector<PredictedRun> read_predictions(const std::vector<std::string>& paths, const std::string& task);

// Lines "SQL<tab>db_id". Empty lines are allowed at the end alone. Throws DataError with file and line.
std::vector<SpiderQuestion> read_gold(const std::filesystem::path& path);

}  // namespace qlora
