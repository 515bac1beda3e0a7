// Charts as inline SVG.
#include <algorithm>
#include <cmath>
#include <limits>

#include <spdlog/fmt/fmt.h>

#include "qlora/report/html_page.h"

namespace qlora {
namespace {

constexpr double kWidth = 720, kHeight = 300;
constexpr double kLeft = 64, kRight = 12, kTop = 24, kBottom = 40;
constexpr size_t kMostPoints = 1000;
constexpr size_t kColours = 4;

struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();

  void add(double x) {
    low = std::min(low, x);
    high = std::max(high, x);
  }
  // Never empty and never of no width.
  void settle() {
    if (low > high) low = 0, high = 1;
    if (low == high) low -= 0.5, high += 0.5;
  }
  double share(double x) const { return (x - low) / (high - low); }
};

// A step of 1, 2 or 5 times a power of ten, about five of them in the range.
double tick_step(const Range& range) {
  const double rough = (range.high - range.low) / 5;
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  const double lead = rough / power;
  return power * (lead < 1.5 ? 1 : lead < 3.5 ? 2 : lead < 7.5 ? 5 : 10);
}

class Plot {
 public:
  Plot(Range x, Range y) : x_(x), y_(y) {
    svg_ = fmt::format("<svg viewBox=\"0 0 {} {}\" width=\"{}\" height=\"{}\" role=\"img\">\n", kWidth, kHeight, kWidth,
                       kHeight);
  }
  double px(double x) const { return kLeft + x_.share(x) * (kWidth - kLeft - kRight); }
  double py(double y) const { return kHeight - kBottom - y_.share(y) * (kHeight - kTop - kBottom); }

  void axes(std::string_view x_name, std::string_view y_name) {
    const double y_step = tick_step(y_);
    for (double y = std::ceil(y_.low / y_step) * y_step; y <= y_.high + y_step * 1e-9; y += y_step) {
      add(fmt::format(
          "<line class=\"grid\" x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>"
          "<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{:.4g}</text>\n",
          kLeft, kWidth - kRight, py(y), py(y), kLeft - 6, py(y) + 4, std::abs(y) < y_step * 1e-9 ? 0.0 : y));
    }
    const double x_step = tick_step(x_);
    for (double x = std::ceil(x_.low / x_step) * x_step; x <= x_.high + x_step * 1e-9; x += x_step) {
      add(fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{:.6g}</text>\n", px(x),
                      kHeight - kBottom + 16, std::abs(x) < x_step * 1e-9 ? 0.0 : x));
    }
    add(fmt::format("<text class=\"faint\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n", kWidth - kRight,
                    kHeight - 6, escape_html(x_name)));
    add(fmt::format("<text class=\"faint\" x=\"4\" y=\"14\">{}</text>\n", escape_html(y_name)));
  }
  void add(const std::string& element) { svg_ += element; }
  std::string str() const { return svg_ + "</svg>\n"; }

 private:
  Range x_, y_;
  std::string svg_;
};

// Of each stretch of points its first, lowest, highest and last, in their order.
std::vector<std::pair<double, double>> thinned(const std::vector<std::pair<double, double>>& points) {
  if (points.size() <= kMostPoints) return points;
  std::vector<std::pair<double, double>> out;
  const size_t stretches = kMostPoints / 4;
  for (size_t s = 0; s < stretches; ++s) {
    const size_t begin = s * points.size() / stretches;
    const size_t end = (s + 1) * points.size() / stretches;
    size_t low = begin;
    size_t high = begin;
    for (size_t i = begin; i < end; ++i) {
      if (points[i].second < points[low].second) low = i;
      if (points[i].second > points[high].second) high = i;
    }
    std::vector<size_t> kept = {begin, low, high, end - 1};
    std::sort(kept.begin(), kept.end());
    kept.erase(std::unique(kept.begin(), kept.end()), kept.end());
    for (size_t i : kept) out.push_back(points[i]);
  }
  return out;
}

std::string path_of(const Plot& plot, const std::vector<std::pair<double, double>>& points) {
  std::string path;
  bool pen_down = false;
  for (const auto& [x, y] : thinned(points)) {
    if (!std::isfinite(x) || !std::isfinite(y)) {
      pen_down = false;
      continue;
    }
    path += fmt::format("{}{:.1f} {:.1f} ", pen_down ? "L" : "M", plot.px(x), plot.py(y));
    pen_down = true;
  }
  return path;
}

}  // namespace

std::string svg_line_chart(const std::vector<Series>& series, std::string_view x_name, std::string_view y_name) {
  Range xs, ys;
  for (const auto& line : series) {
    for (const auto& [x, y] : line.points) {
      if (std::isfinite(x) && std::isfinite(y)) xs.add(x), ys.add(y);
    }
  }
  xs.settle();
  ys.settle();
  Plot plot(xs, ys);
  plot.axes(x_name, y_name);
  for (size_t i = 0; i < series.size(); ++i) {
    plot.add(fmt::format("<path fill=\"none\" style=\"stroke:var(--c{})\" stroke-width=\"1.5\" d=\"{}\"/>\n",
                         i % kColours, path_of(plot, series[i].points)));
    plot.add(fmt::format("<text style=\"fill:var(--c{})\" x=\"{:.1f}\" y=\"14\">{}</text>\n", i % kColours,
                         kLeft + 120 + 140 * static_cast<double>(i), escape_html(series[i].name)));
  }
  return plot.str();
}

std::string svg_histogram(const std::vector<double>& values, std::string_view x_name, size_t bins) {
  Range xs;
  for (double value : values) {
    if (std::isfinite(value)) xs.add(value);
  }
  xs.settle();
  std::vector<size_t> counts(std::max<size_t>(bins, 1), 0);
  for (double value : values) {
    if (!std::isfinite(value)) continue;
    const auto bin = static_cast<size_t>(xs.share(value) * static_cast<double>(counts.size()));
    ++counts[std::min(bin, counts.size() - 1)];
  }
  Range ys;
  ys.add(0);
  ys.add(static_cast<double>(*std::max_element(counts.begin(), counts.end())));
  ys.settle();
  Plot plot(xs, ys);
  plot.axes(x_name, "count");
  const double width = (xs.high - xs.low) / static_cast<double>(counts.size());
  for (size_t i = 0; i < counts.size(); ++i) {
    const double x = xs.low + static_cast<double>(i) * width;
    const double top = plot.py(static_cast<double>(counts[i]));
    plot.add(
        fmt::format("<rect style=\"fill:var(--c0)\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\">"
                    "<title>{:.6g} to {:.6g}: {}</title></rect>\n",
                    plot.px(x), top, std::max(0.5, plot.px(x + width) - plot.px(x) - 1), plot.py(0) - top, x, x + width,
                    counts[i]));
  }
  return plot.str();
}

std::string svg_bars(const std::vector<std::string>& series, const std::vector<BarGroup>& groups) {
  constexpr double kWide = 480, kBar = 18, kGap = 10, kLabel = 150, kValue = 64;  // so narrow that a phone can show it
  const double group_height = kBar * static_cast<double>(series.size()) + kGap;
  const double legend = kBar * static_cast<double>(series.size()) + 8;  // a line a name: names may be long
  const double height = legend + group_height * static_cast<double>(groups.size());
  std::string svg =
      fmt::format("<svg class=\"bars\" viewBox=\"0 0 {} {:.0f}\" width=\"{}\" height=\"{:.0f}\" role=\"img\">\n", kWide,
                  height, kWide, height);
  for (size_t i = 0; i < series.size(); ++i) {
    svg += fmt::format("<text style=\"fill:var(--c{})\" x=\"{:.0f}\" y=\"{:.0f}\">{}</text>\n", i % kColours, kLabel,
                       14 + kBar * static_cast<double>(i), escape_html(series[i]));
  }
  for (size_t g = 0; g < groups.size(); ++g) {
    const double top = legend + group_height * static_cast<double>(g);
    svg += fmt::format("<text x=\"{:.0f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n", kLabel - 8,
                       top + (group_height - kGap) / 2 + 5, escape_html(groups[g].label));
    for (size_t i = 0; i < groups[g].values.size(); ++i) {
      const double value = std::isfinite(groups[g].values[i]) ? std::clamp(groups[g].values[i], 0.0, 1.0) : 0.0;
      const double length = value * (kWide - kLabel - kValue);
      const double y = top + kBar * static_cast<double>(i);
      svg += fmt::format(
          "<rect style=\"fill:var(--c{})\" x=\"{:.0f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.0f}\"/>"
          "<text x=\"{:.1f}\" y=\"{:.1f}\">{:.1f} %</text>\n",
          i % kColours, kLabel, y, std::max(length, 0.5), kBar - 2, kLabel + length + 6, y + kBar - 4, 100 * value);
    }
  }
  return svg + "</svg>\n";
}

}  // namespace qlora
