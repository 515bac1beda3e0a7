#include "qlora/eval/terminal_table.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include <spdlog/fmt/fmt.h>

#include "qlora/eval/score_text.h"
#include "qlora/eval/task_scores.h"

namespace qlora {
namespace {

using Rows = std::vector<std::vector<std::string>>;

// Characters on the screen: bytes that continue a UTF-8 sequence and colours take no room.
size_t columns_of(std::string_view text) {
  size_t count = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\x1b') {
      i = std::min(text.find('m', i), text.size() - 1);
    } else if ((static_cast<unsigned char>(text[i]) & 0xc0) != 0x80) {
      ++count;
    }
  }
  return count;
}

std::string painted(const std::string& text, const char* code, bool colour) {
  return colour ? fmt::format("\x1b[{}m{}\x1b[0m", code, text) : text;
}

std::string painted_change(const std::string& score, double difference, bool colour) {
  const bool better = (difference > 0) != lower_is_better(score);
  return painted(change_text(score, difference), better ? "32" : "31", colour && difference != 0);
}

std::string interval(const std::string& score, const Json& bounds) {
  return fmt::format("[{}, {}]", change_text(score, bounds[0].get<double>()),
                     change_text(score, bounds[1].get<double>()));
}

std::string p_text(double p) {
  return p < 0.0001 ? "< 0.0001" : fmt::format("{:.4f}", p);
}

// Scores of a run that is paired with the base.
Rows paired_rows(const std::string& base, const std::string& run, const Json& paired, const Json& other, bool colour) {
  Rows rows = {{"score", base, run, "difference", "wins", "losses", "p", "95 % interval"}};
  if (!other.is_null()) rows[0].insert(rows[0].begin() + 3, other.begin().key());
  for (const auto& [score, p] : paired.items()) {
    const double difference = p["tuned"].get<double>() - p["base"].get<double>();
    rows.push_back({score, score_text(score, p["base"]), score_text(score, p["tuned"]),
                    painted_change(score, difference, colour), fmt::format("{}", p["wins"].get<size_t>()),
                    fmt::format("{}", p["losses"].get<size_t>()), p_text(p["p_value"].get<double>()),
                    interval(score, p["interval"])});
    if (!other.is_null())
      rows.back().insert(rows.back().begin() + 3, score_text(score, other.front().value(score, Json())));
  }
  return rows;
}

// The scores that are no means of rows: there is nothing to count or to draw again.
void add_overall(Rows& rows, const Json& base, const Json& tuned, bool colour) {
  for (const auto& [score, value] : tuned["overall"].items()) {
    const auto shown = [&name = score](const auto& row) { return row[0] == name; };
    if (std::any_of(rows.begin(), rows.end(), shown) || !base["overall"].contains(score)) continue;
    const Json& before = base["overall"][score];
    rows.push_back({score, score_text(score, before), score_text(score, value),
                    painted_change(score, value.get<double>() - before.get<double>(), colour)});
  }
}

// The run that the others are paired with.
std::string base_of(const Json& report) {
  const Json name = report.value("paired_with", Json());
  return name.is_string() ? name.get<std::string>() : "base";
}

// {"extracted": {...}} or {"raw": {...}}, or null.
Json other_reading(const Json& task) {
  for (const char* name : {"extracted", "raw"}) {
    if (task.contains(name)) return Json{{name, task[name]}};
  }
  return nullptr;
}

Rows single_rows(const std::string& run, const Json& task, const Json& other) {
  Rows rows = {{"score", run}};
  if (!other.is_null()) rows[0].push_back(other.begin().key());
  for (const auto& [score, value] : task["overall"].items()) {
    rows.push_back({score, score_text(score, value)});
    if (!other.is_null()) rows.back().push_back(score_text(score, other.front().value(score, Json())));
  }
  return rows;
}

Rows group_rows(const std::string& run, const Json& task) {
  Rows rows = {{run}};
  for (const auto& [group, means] : task["by"].items()) {
    rows[0].push_back(fmt::format("{} ({})", group, means["n"].get<size_t>()));
  }
  for (const auto& [score, value] : task["overall"].items()) {
    rows.push_back({score});
    for (const auto& [group, means] : task["by"].items())
      rows.back().push_back(score_text(score, means.value(score, Json())));
  }
  return rows;
}

// "answers: 980 sql alone, 12 prose after, ..."; what no answer has is left out.
std::string answers_line(const Json& counts) {
  std::string line;
  for (const auto& [name, count] : counts.items()) {
    std::string words = name;
    std::replace(words.begin(), words.end(), '_', ' ');
    if (count.get<size_t>() > 0)
      line += fmt::format("{} {} {}", line.empty() ? "answers:" : ",", count.get<size_t>(), words);
  }
  return line.empty() ? line : line + "\n";
}

}  // namespace

std::string text_table(const Rows& rows, size_t width) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()), 0);
    for (size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], columns_of(row[c]));
  }
  size_t shown = 0;
  for (size_t used = 0; shown < widths.size(); ++shown) {
    used += widths[shown] + (shown > 0 ? 2 : 0);
    if (used > width && shown >= 2) break;
  }
  std::string out;
  for (const auto& row : rows) {
    std::string line;
    for (size_t c = 0; c < std::min(shown, row.size()); ++c) {
      const std::string space(widths[c] - columns_of(row[c]), ' ');
      line += c == 0 ? row[c] + space : "  " + space + row[c];
    }
    out += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return out;
}

std::string terminal_report(const Json& report, size_t width, bool colour) {
  std::string out;
  const std::string base = base_of(report);
  for (const auto& [name, run] : report["runs"].items()) {
    for (const auto& [task_name, task] : run["tasks"].items()) {
      if (task["overall"].empty()) {  // answers alone
        const std::string head = fmt::format("{}: {}, {} rows generated", name, task_name, task["n"].get<size_t>());
        out += (out.empty() ? "" : "\n") + painted(head, "1", colour) + "\n";
        continue;
      }
      const Json pairs = report["paired"].value(name, Json::object()).value(task_name, Json());
      const Json other = other_reading(task);
      Rows rows = pairs.is_null() ? single_rows(name, task, other) : paired_rows(base, name, pairs, other, colour);
      if (!pairs.is_null()) add_overall(rows, report["runs"][base]["tasks"][task_name], task, colour);
      const std::string head = fmt::format("{}: {}, {} rows", name, task_name, task["n"].get<size_t>());
      out += (out.empty() ? "" : "\n") + painted(head, "1", colour) + "\n" + text_table(rows, width);
      if (task.contains("answers")) out += answers_line(task["answers"]);
      if (!task["by"].empty()) out += "\n" + text_table(group_rows(name, task), width);
    }
  }
  return out;
}

size_t terminal_width() {
  winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  const char* columns = std::getenv("COLUMNS");
  const int given = columns == nullptr ? 0 : std::atoi(columns);
  return given > 0 ? static_cast<size_t>(given) : 100;
}

}  // namespace qlora
