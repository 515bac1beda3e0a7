#include "qlora/report/html_page.h"

#include <algorithm>
#include <cstdlib>

#include <spdlog/fmt/fmt.h>

namespace qlora {
namespace {

constexpr std::string_view kStyle = R"css(
:root { color-scheme: light dark; --ink: #1c2024; --paper: #fff; --faint: #6b7480; --rule: #d9dee4; --fill: #f3f5f7;
  --c0: #2266bb; --c1: #c2571a; --c2: #2b8a57; --c3: #8a4fbf; --good: #1d7a46; --bad: #b3261e; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e4e7ea; --paper: #15181c; --faint: #98a2ad; --rule: #343a42;
  --fill: #1f242a; --c0: #6aa7f0; --c1: #f0925a; --c2: #62c78f; --c3: #c095ee; --good: #6fd39a; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; border-bottom: 1px solid var(--rule); }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: left; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { background: var(--fill); white-space: nowrap; } th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible, summary:focus-visible { outline: 2px solid var(--c0); }
th[aria-sort=ascending] button::after { content: " \2191"; } th[aria-sort=descending] button::after { content: " \2193"; }
.num { text-align: right; white-space: nowrap; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; } dt { color: var(--faint); } dd { margin: 0; }
pre, code { font: .85rem/1.4 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; }
details { border: 1px solid var(--rule); border-radius: .3rem; padding: .4rem .8rem; margin: .4rem 0; }
summary { cursor: pointer; } .won { color: var(--good); } .lost { color: var(--bad); }
svg { max-width: 100%; height: auto; display: block; } svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
svg.bars text { font-size: 14px; } svg .grid { stroke: var(--rule); } svg .faint { fill: var(--faint); }
@media print { :root { color-scheme: light; } body { max-width: none; font-size: 11pt; } details { break-inside: avoid; } }
)css";

constexpr std::string_view kScript = R"js(
document.querySelectorAll('table.sort').forEach(table => {
  table.querySelectorAll('th button').forEach((button, column) => button.addEventListener('click', () => {
    const head = button.parentElement, up = head.getAttribute('aria-sort') !== 'ascending';
    table.querySelectorAll('th').forEach(th => th.removeAttribute('aria-sort'));
    head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
    const key = row => { const text = row.cells[column] ? row.cells[column].textContent : '', n = parseFloat(text);
      return isNaN(n) ? text : n; };
    const rows = Array.from(table.tBodies[0].rows).map(row => [key(row), row]);
    rows.sort(([a], [b]) => (typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === 'number' ? -1 : 1)
      * (up ? 1 : -1));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }));
});
)js";

bool is_number(const std::string& cell) {
  char* end = nullptr;
  std::strtod(cell.c_str(), &end);
  return end != cell.c_str() || cell == "-" || cell.empty();
}

}  // namespace

std::string escape_html(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

HtmlPage& HtmlPage::heading(std::string_view text) {
  return html("<h2>" + escape_html(text) + "</h2>\n");
}
HtmlPage& HtmlPage::paragraph(std::string_view text) {
  return html("<p>" + escape_html(text) + "</p>\n");
}

HtmlPage& HtmlPage::html(std::string_view fragment) {
  body_ += fragment;
  return *this;
}

HtmlPage& HtmlPage::table(const std::vector<std::vector<std::string>>& rows) {
  if (rows.empty()) return *this;
  std::vector<bool> numeric(rows[0].size(), rows.size() > 1);
  for (size_t r = 1; r < rows.size(); ++r) {
    for (size_t c = 0; c < std::min(rows[r].size(), numeric.size()); ++c)
      numeric[c] = numeric[c] && is_number(rows[r][c]);
  }
  const auto cell = [&](const char* tag, size_t column, const std::string& content) {
    const bool right = column < numeric.size() && numeric[column];
    body_ += fmt::format("<{}{}>{}</{}>", tag, right ? " class=\"num\"" : "", content, tag);
  };
  body_ += "<div class=\"scroll\"><table class=\"sort\"><thead><tr>";
  for (size_t c = 0; c < rows[0].size(); ++c) cell("th", c, "<button>" + escape_html(rows[0][c]) + "</button>");
  body_ += "</tr></thead><tbody>\n";
  for (size_t r = 1; r < rows.size(); ++r) {
    body_ += "<tr>";
    for (size_t c = 0; c < rows[r].size(); ++c) cell("td", c, escape_html(rows[r][c]));
    body_ += "</tr>\n";
  }
  return html("</tbody></table></div>\n");
}

HtmlPage& HtmlPage::facts(const std::vector<std::pair<std::string, std::string>>& facts) {
  body_ += "<dl>";
  for (const auto& [name, value] : facts) {
    body_ += "<dt>" + escape_html(name) + "</dt><dd>" + escape_html(value) + "</dd>";
  }
  return html("</dl>\n");
}

HtmlPage& HtmlPage::fold(std::string_view summary, const std::string& html_inside) {
  return html("<details><summary>" + escape_html(summary) + "</summary>\n" + html_inside + "</details>\n");
}

std::string HtmlPage::str() const {
  const std::string title = escape_html(title_);
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<link rel=\"icon\" href=\"data:,\">\n<title>{}</title>\n<style>{}</style></head>\n<body>\n<h1>{}</h1>\n{}"
      "<script>{}</script>\n</body></html>\n",
      title, kStyle, title, body_, kScript);
}

}  // namespace qlora
