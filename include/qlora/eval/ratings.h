// People's judgement: answers of two runs side by side without names, and what was said of them.
//
// The sheet is a CSV file: row, id, question, a, b, preference. Who judges writes a, b or tie into the last column, or
// leaves it empty; the order of rows and columns is free, and so are further columns. The key, a JSON file beside it,
// knows which run is a, row by row.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "qlora/eval/options.h"
#include "qlora/eval/results.h"

namespace qlora {

struct BlindSheet {
  std::string sheet;  // CSV; a text that a spreadsheet would take for a formula (= + - @) stands behind an apostrophe
  std::string key;    // JSON
};

// The answers of the first task that has any; which run is a is drawn anew for each row, by `seed`. Equal answers are a
// tie already. `results` has passed check_blind.
BlindSheet make_blind_sheet(const EvalResults& results, std::uint64_t seed);

// answers.csv -> answers.key.json
std::filesystem::path blind_key(const std::filesystem::path& sheet);

// Throws UsageError where options.blind is set and there are not two runs, no task has answers, or the sheet is there
// already: people may have worked on it.
void check_blind(const EvalOptions& options, std::size_t runs);

// Adds the task `ratings` with the score `preferred` (1: this run's answer was preferred, 0: the other's, 0.5: a tie)
// to the two runs of a sheet, and those runs where they are not there. Where no run is the base, the sheet's first one
// is. Throws DataError with file and line for a preference that is none, a row that the key does not know or that is
// there twice, and for a sheet without any preference.
void add_ratings(EvalResults& results, const std::filesystem::path& sheet);

}  // namespace qlora
