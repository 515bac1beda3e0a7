// One HTML file that needs nothing else: no network, readable on a phone and on paper, light and dark.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace qlora {

// & < > " ' as entities: for text and for attributes in double quotes.
std::string escape_html(std::string_view text);

// A page put together from top to bottom. All text is escaped; what is given as `html` is not.
class HtmlPage {
 public:
  explicit HtmlPage(std::string title) : title_(std::move(title)) {}

  HtmlPage& heading(std::string_view text);
  HtmlPage& paragraph(std::string_view text);
  HtmlPage& html(std::string_view fragment);
  // A table whose heads sort it (numbers by value, with a click or the Enter key). First row: heads. Columns where
  // every cell starts as a number stand to the right.
  HtmlPage& table(const std::vector<std::vector<std::string>>& rows);
  // Names and values, as of a summary.
  HtmlPage& facts(const std::vector<std::pair<std::string, std::string>>& facts);
  // A block that opens on demand, for what is long.
  HtmlPage& fold(std::string_view summary, const std::string& html);

  std::string str() const;

 private:
  std::string title_;
  std::string body_;
};

// --- Inline SVG; colours follow the page.

struct Series {
  std::string name;
  std::vector<std::pair<double, double>> points;  // x ascending
};

// Lines over a common x. NaN and Inf leave a gap. Points beyond 1,000 a line are thinned, extremes kept.
std::string svg_line_chart(const std::vector<Series>& series, std::string_view x_name, std::string_view y_name);

// Counts of `values` in equal bins.
std::string svg_histogram(const std::vector<double>& values, std::string_view x_name, size_t bins = 40);

// Horizontal bars in [0, 1], grouped: one row a label, one bar a series.
struct BarGroup {
  std::string label;
  std::vector<double> values;
};
std::string svg_bars(const std::vector<std::string>& series, const std::vector<BarGroup>& groups);

}  // namespace qlora
