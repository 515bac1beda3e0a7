#include "qlora/app/train_report.h"

#include <fmt/format.h>

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

void add_evaluations(HtmlPage& page, const std::vector<Json>& lines) {
  std::vector<std::vector<std::string>> rows = {{"step", "epoch", "loss"}};
  for (const Json& line : lines) {
    if (!line.contains("eval_loss")) continue;
    rows.push_back({line.at("step").dump(), fmt::format("{:.2f}", line.at("epoch").get<double>()),
                    fmt::format("{:.6f}", line.at("eval_loss").get<double>())});
  }
  if (rows.size() > 1) page.heading("Evaluations").table(rows);
}

}  // namespace

std::string train_report(const std::string& title, const std::vector<std::pair<std::string, std::string>>& facts,
                         const std::vector<Json>& lines) {
  HtmlPage page(title);
  page.facts(facts);
  add_chart(page, "Loss", {curve(lines, "loss", "training"), curve(lines, "eval_loss", "evaluation")}, "loss");
  add_evaluations(page, lines);
  add_chart(page, "Learning rate", {curve(lines, "learning_rate", "learning rate")}, "learning rate");
  add_chart(page, "Gradient norm", {curve(lines, "grad_norm", "gradient norm")}, "norm before clipping");
  add_chart(page, "Speed", {curve(lines, "tokens_per_second", "tokens a second")}, "tokens a second");
  return page.str();
}

}  // namespace qlora
