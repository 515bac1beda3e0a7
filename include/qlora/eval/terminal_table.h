// Results as tables for a terminal, or for a log.
#pragma once

#include <string>
#include <vector>

#include "qlora/core/json.h"

namespace qlora {

// A table with its first row as heads: first column to the left, others to the right, two spaces between. Columns are
// left out from the right, but for the first two, until a line fits into `width` columns of the terminal.
std::string text_table(const std::vector<std::vector<std::string>>& rows, size_t width);

// What report_json gave, in words: for each task a table of scores by run (with difference, wins, losses and p where
// runs are paired), and one of each run's scores by group. `colour`: bold heads, green and red differences.
std::string terminal_report(const Json& report, size_t width, bool colour);

// Of stdout: its terminal's, COLUMNS, or 100.
size_t terminal_width();

}  // namespace qlora
