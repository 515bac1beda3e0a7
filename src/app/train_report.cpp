#include "qlora/app/train_report.h"

#include <algorithm>
#include <string_view>

#include <fmt/format.h>

#include "qlora/eval/task_scores.h"
#include "qlora/report/html_page.h"

namespace qlora {
namespace {

Series curve(const std::vector<Json>& lines, const char* field, std::string name) {
  Series series{std::move(name), {}};
  for (const Json& line : lines) {
    if (line.contains(field)) series.points.emplace_back(line.at("step").get<double>(), line.at(field).get<double>());
  }
  return series;
}

void add_chart(HtmlPage& page, const char* title, const std::vector<Series>& series, const char* y_name) {
  std::vector<Series> drawn;
  for (const Series& s : series) {
    if (!s.points.empty()) drawn.push_back(s);
  }
  if (!drawn.empty()) page.heading(title).html(svg_line_chart(drawn, "step", y_name));
}

// The scores of eval_tasks that evaluations have, in their order: "eval_spider_execution".
std::vector<std::string> score_fields(const std::vector<Json>& lines) {
  static const std::vector<std::string> kOthers = {"eval_loss", "eval_runtime", "eval_samples_per_second"};
  std::vector<std::string> fields;
  for (const Json& line : lines) {
    for (const auto& [field, value] : line.items()) {
      if (!field.starts_with("eval_") || std::count(kOthers.begin(), kOthers.end(), field) > 0) continue;
      if (std::count(fields.begin(), fields.end(), field) == 0) fields.push_back(field);
    }
  }
  return fields;
}

std::string score_name(const std::string& field) {
  return field.substr(std::string_view("eval_").size());
}

// Shares in one chart, points in another, and each number of which less is better in its own.
void add_score_charts(HtmlPage& page, const std::vector<Json>& lines) {
  std::vector<Series> shares, points;
  for (const std::string& field : score_fields(lines)) {
    const std::string score = field.substr(field.find('_', std::string_view("eval_").size()) + 1);
    Series series = curve(lines, field.c_str(), score_name(field));
    if (lower_is_better(score)) {
      const std::string name = series.name;
      add_chart(page, name.c_str(), {std::move(series)}, score.c_str());
    } else {
      (best_score(score) == 1.0 ? shares : points).push_back(std::move(series));
    }
  }
  add_chart(page, "Scores", shares, "share");
  add_chart(page, "Scores in points", points, "points");
}

void add_evaluations(HtmlPage& page, const std::vector<Json>& lines) {
  std::vector<std::vector<std::string>> rows = {{"step", "epoch", "loss"}};
  const std::vector<std::string> fields = score_fields(lines);
  for (const std::string& field : fields) rows[0].push_back(score_name(field));
  for (const Json& line : lines) {
    if (!line.contains("eval_loss")) continue;
    rows.push_back({line.at("step").dump(), fmt::format("{:.2f}", line.at("epoch").get<double>()),
                    fmt::format("{:.6f}", line.at("eval_loss").get<double>())});
    for (const std::string& field : fields)
      rows.back().push_back(line.contains(field) ? fmt::format("{:.4f}", line.at(field).get<double>()) : "-");
  }
  if (rows.size() > 1) page.heading("Evaluations").table(rows);
}

}  // namespace

std::string train_report(const std::string& title, const std::vector<std::pair<std::string, std::string>>& facts,
                         const std::vector<Json>& lines) {
  HtmlPage page(title);
  page.facts(facts);
  add_chart(page, "Loss", {curve(lines, "loss", "training"), curve(lines, "eval_loss", "evaluation")}, "loss");
  add_score_charts(page, lines);
  add_evaluations(page, lines);
  add_chart(page, "Learning rate", {curve(lines, "learning_rate", "learning rate")}, "learning rate");
  add_chart(page, "Gradient norm", {curve(lines, "grad_norm", "gradient norm")}, "norm before clipping");
  add_chart(page, "Speed", {curve(lines, "tokens_per_second", "tokens a second")}, "tokens a second");
  return page.str();
}

}  // namespace qlora
