// report.html of a prepared set.
#include <algorithm>

#include <spdlog/fmt/fmt.h>

#include "qlora/app/prepare_pages.h"

namespace qlora {
namespace {

constexpr int kBars = 40, kWidth = 800, kHeight = 200, kAxis = 20;

std::string escaped(const std::string& text) {
  std::string html;
  for (const char c : text) {
    if (c == '&') {
      html += "&amp;";
    } else if (c == '<') {
      html += "&lt;";
    } else {
      html += c;
    }
  }
  return html;
}

// Rows by length in tokens, as SVG.
std::string histogram(const std::vector<std::int64_t>& lengths) {
  const std::int64_t longest = lengths.back();
  const std::int64_t width = std::max<std::int64_t>(1, (longest + kBars - 1) / kBars);
  std::vector<std::int64_t> bars(static_cast<std::size_t>((longest + width - 1) / width));
  for (const auto length : lengths) ++bars[static_cast<std::size_t>(std::max<std::int64_t>(length - 1, 0) / width)];
  const auto most = *std::max_element(bars.begin(), bars.end());
  const double step = static_cast<double>(kWidth) / static_cast<double>(bars.size());
  std::string svg =
      fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"rows by length\">\n", kWidth, kHeight + kAxis);
  for (std::size_t i = 0; i < bars.size(); ++i) {
    const double height = kHeight * static_cast<double>(bars[i]) / static_cast<double>(most);
    const auto first = static_cast<std::int64_t>(i) * width + 1;
    svg += fmt::format(
        "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\"><title>{} to {} tokens: {} "
        "rows</title></rect>\n",
        static_cast<double>(i) * step, kHeight - height, step * 0.9, height, first, first + width - 1, bars[i]);
  }
  return svg + fmt::format(
                   "<text x=\"0\" y=\"{0}\">1</text><text x=\"{1}\" y=\"{0}\" text-anchor=\"end\">{2} tokens</text>"
                   "\n</svg>\n",
                   kHeight + kAxis - 4, kWidth, longest);
}

std::string row_of(const std::string& name, const std::string& value) {
  return fmt::format("<tr><th>{}</th><td>{}</td></tr>\n", escaped(name), escaped(value));
}

std::string section(const char* title, const RowCounts& counts) {
  std::string html = fmt::format("<h2>{}</h2>\n<table>\n", title);
  html += row_of("rows", fmt::format("{} of {} kept", counts.rows_kept, counts.rows_in));
  for (const auto& [reason, count] : counts.dropped) {
    html += row_of("dropped: " + reason, fmt::format("{} (the first: {})", count, counts.first_dropped.at(reason)));
  }
  html += row_of("truncated", std::to_string(counts.truncated));
  html += row_of("duplicates", std::to_string(counts.duplicates));
  html += row_of("only the last answer trained", std::to_string(counts.only_last));
  html += row_of("tokens", fmt::format("{}, {} with loss", counts.tokens, counts.label_tokens));
  html += row_of("length", fmt::format("p50 {}, p95 {}, max {}", counts.percentile(0.5), counts.percentile(0.95),
                                       counts.percentile(1)));
  return html + "</table>\n" + histogram(counts.lengths);
}

}  // namespace

std::string prepare_report(const PreparedData& data) {
  std::string html =
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Prepared data</title>\n<style>"
      "body{font:16px sans-serif;max-width:860px;margin:2em auto;padding:0 1em}th{text-align:left;padding-right:2em;"
      "font-weight:normal}td{font-variant-numeric:tabular-nums}rect{fill:#3b6ea5}svg{width:100%;margin-top:1em}"
      "code{overflow-wrap:anywhere}</style></head><body>\n<h1>Prepared data</h1>\n";
  html += section("Training rows", data.train.counts);
  if (data.eval) {
    html += section("Evaluation rows", data.eval->counts);
    html += fmt::format("<p>{} evaluation rows are also training rows.</p>\n", data.leaked);
  }
  if (!data.warnings.empty()) html += "<h2>Warnings</h2>\n<ul>\n";
  for (const auto& warning : data.warnings) html += fmt::format("<li>{}</li>\n", escaped(warning));
  if (!data.warnings.empty()) html += "</ul>\n";
  return html + fmt::format("<p>Fingerprint <code>{}</code></p>\n</body></html>\n", data.fingerprint());
}

}  // namespace qlora
