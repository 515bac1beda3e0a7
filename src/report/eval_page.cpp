#include "qlora/report/eval_page.h"

#include <algorithm>

#include <spdlog/fmt/fmt.h>

#include "qlora/eval/score_text.h"
#include "qlora/eval/task_scores.h"
#include "qlora/report/html_page.h"

namespace qlora {
namespace {

using Rows = std::vector<std::vector<std::string>>;

constexpr size_t kMostFlips = 2000;  // of each direction: a page must stay a page

// Scores of all runs beside each other, and the other reading of the answers.
void add_scores(HtmlPage& page, const Json& report, const std::string& task) {
  Rows rows = {{"score"}};
  std::vector<std::string> names;
  std::vector<BarGroup> groups;
  for (const auto& [name, run] : report["runs"].items()) {
    if (!run["tasks"].contains(task)) continue;
    const Json& result = run["tasks"][task];
    names.push_back(name);
    rows[0].push_back(name);
    for (const char* other : {"extracted", "raw"}) {
      if (result.contains(other)) rows[0].push_back(name + ", " + other);
    }
    size_t r = 0, bars = 0;
    for (const auto& [score, value] : result["overall"].items()) {
      if (rows.size() == ++r) rows.push_back({score});
      rows[r].push_back(score_text(score, value));
      for (const char* other : {"extracted", "raw"}) {
        if (result.contains(other)) rows[r].push_back(score_text(score, result[other].value(score, Json())));
      }
      if (lower_is_better(score)) continue;  // a bar is a share
      if (groups.size() == bars++) groups.push_back({score, {}});
      groups[bars - 1].values.push_back(value.is_number() ? value.get<double>() / best_score(score) : 0.0);
    }
  }
  if (!groups.empty()) page.html(svg_bars(names, groups));
  page.table(rows);
}

void add_groups(HtmlPage& page, const Json& report, const std::string& task, const std::string& key,
                const std::string& head) {
  Rows rows = {{head, "run", "rows"}};
  for (const auto& [name, run] : report["runs"].items()) {
    if (!run["tasks"].contains(task) || !run["tasks"][task].contains(key)) continue;
    for (const auto& [group, means] : run["tasks"][task][key].items()) {
      rows.push_back({group, name, means["n"].dump()});
      for (const auto& [score, value] : run["tasks"][task]["overall"].items()) {
        if (rows.size() == 2) rows[0].push_back(score);
        rows.back().push_back(score_text(score, means.value(score, Json())));
      }
    }
  }
  if (rows.size() == 1) return;
  page.heading(task + " by " + head);
  page.table(rows);
}

// How many answers have something around their SQL.
void add_answers(HtmlPage& page, const Json& report, const std::string& task) {
  Rows rows = {{"answers"}};
  for (const auto& [name, run] : report["runs"].items()) {
    if (!run["tasks"].contains(task) || !run["tasks"][task].contains("answers")) continue;
    rows[0].push_back(name);
    size_t r = 0;
    for (const auto& [part, count] : run["tasks"][task]["answers"].items()) {
      if (rows.size() == ++r) rows.push_back({part});
      rows[r].push_back(count.dump());
    }
  }
  if (rows.size() > 1) page.table(rows);
}

std::vector<std::string> pair_row(const std::string& score, const Json& p) {
  const double difference = p["tuned"].get<double>() - p["base"].get<double>();
  return {score,
          score_text(score, p["base"]),
          score_text(score, p["tuned"]),
          change_text(score, difference),
          change_text(score, p["interval"][0].get<double>()),
          change_text(score, p["interval"][1].get<double>()),
          p["wins"].dump(),
          p["losses"].dump(),
          p["ties"].dump(),
          fmt::format("{:.4g}", p["p_value"].get<double>())};
}

void add_pairs(HtmlPage& page, const std::string& base, const std::string& run, const Json& scores) {
  Rows rows = {{"score", base, run, "difference", "95 % from", "to", "wins", "losses", "ties", "p"}};
  Rows by_group = rows;
  by_group[0].insert(by_group[0].begin(), "of");
  for (const auto& [score, p] : scores.items()) {
    rows.push_back(pair_row(score, p));
    const Json groups = p.value("by", Json::object());
    for (const auto& [group, of_group] : groups.items()) {
      by_group.push_back(pair_row(score, of_group));
      by_group.back().insert(by_group.back().begin(), group);
    }
  }
  page.table(rows);
  if (by_group.size() > 1) page.table(by_group);
}

std::string flip_html(const FlippedAnswer& flip, const std::string& base) {
  const auto block = [](const std::string& head, const std::string& text) {
    return fmt::format("<dt>{}</dt><dd><pre>{}</pre></dd>", escape_html(head), escape_html(text));
  };
  const auto answer = [](const std::string& text, const std::string& error) {
    return error.empty() ? text : text + "\n-- " + error;
  };
  const auto rows = [&](const std::string& text) { return text.empty() ? text : block("its rows", text); };
  return "<dl>" + block("gold", flip.gold) + rows(flip.gold_result) +
         block(base, answer(flip.base_answer, flip.base_error)) + rows(flip.base_result) +
         block(flip.run, answer(flip.tuned_answer, flip.tuned_error)) + rows(flip.tuned_result) + "</dl>\n";
}

void add_flips(HtmlPage& page, const std::vector<FlippedAnswer>& flipped, const std::string& score,
               const std::string& base) {
  if (flipped.empty()) return;
  page.heading("Rows whose " + score + " changed");
  for (const bool won : {true, false}) {
    const auto count = std::count_if(flipped.begin(), flipped.end(), [&](const auto& f) { return f.won == won; });
    page.html(fmt::format("<h3 class=\"{}\">{}: {}</h3>\n", won ? "won" : "lost", won ? "Won" : "Lost", count));
    size_t shown = 0;
    for (const auto& flip : flipped) {
      if (flip.won != won || ++shown > kMostFlips) continue;
      page.fold(fmt::format("{} {}, {}: {}", flip.run, flip.place, flip.group, flip.question), flip_html(flip, base));
    }
    if (shown > kMostFlips) page.paragraph(fmt::format("{} more stand in predictions.jsonl.", shown - kMostFlips));
  }
}

}  // namespace

std::string eval_page(const Json& report, const std::vector<FlippedAnswer>& flipped, const std::string& score) {
  HtmlPage page("Evaluation");
  const Json paired_with = report.value("paired_with", Json());
  const std::string base = paired_with.is_string() ? paired_with.get<std::string>() : "base";
  std::vector<std::string> tasks;
  for (const auto& [name, run] : report["runs"].items()) {
    for (const auto& [task, result] : run["tasks"].items()) {
      if (std::find(tasks.begin(), tasks.end(), task) == tasks.end()) tasks.push_back(task);
    }
  }
  for (const auto& task : tasks) {
    page.heading(task);
    add_scores(page, report, task);
    add_answers(page, report, task);
    for (const auto& [run, pairs] : report["paired"].items()) {
      if (!pairs.contains(task)) continue;
      page.heading(fmt::format("{} against {}, {}", run, base, task));
      add_pairs(page, base, run, pairs[task]);
    }
    add_groups(page, report, task, "by", task == "mmlu" ? "group" : "level");
    for (const char* part : {"database", "subject"}) add_groups(page, report, task, std::string("by_") + part, part);
  }
  add_flips(page, flipped, score, base);
  page.paragraph("Intervals: 95 %, bootstrap over rows. p: exact McNemar test, two-sided.");
  return page.str();
}

}  // namespace qlora
