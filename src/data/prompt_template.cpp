#include "qlora/data/prompt_template.h"

#include <fmt/format.h>

#include "qlora/core/error.h"

namespace qlora {
namespace {

using Lookup = std::function<std::optional<std::string>(const std::string&)>;

[[noreturn]] void fail_lone_brace(std::string_view text, std::size_t at) {
  throw DataError(
      fmt::format("prompt_template has a lone '{}' at character {}: write {{{{ or }}}} for a brace that stands "
                  "for itself",
                  text[at], at + 1));
}

std::string column_names(const Json& row) {
  std::string names;
  for (const auto& [key, value] : row.items()) names += (names.empty() ? "" : ", ") + key;
  return names;
}

std::string as_text(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  return value.is_null() ? std::string() : value.dump();
}

}  // namespace

std::string fill_prompt_template(std::string_view prompt_template, const Lookup& value) {
  std::string filled;
  for (std::size_t at = 0; at < prompt_template.size(); ++at) {
    const char c = prompt_template[at];
    if (c != '{' && c != '}') {
      filled += c;
    } else if (at + 1 < prompt_template.size() && prompt_template[at + 1] == c) {
      filled += c;
      ++at;
    } else {
      const auto end = c == '{' ? prompt_template.find_first_of("{}", at + 1) : std::string_view::npos;
      if (end == std::string_view::npos || prompt_template[end] == '{') fail_lone_brace(prompt_template, at);
      const std::string name(prompt_template.substr(at + 1, end - at - 1));
      const auto text = value(name);
      if (!text) throw DataError(fmt::format("prompt_template asks for {{{}}}, which is no column of the row", name));
      filled += *text;
      at = end;
    }
  }
  return filled;
}

std::string fill_prompt_template(std::string_view prompt_template, const Json& row, const Lookup& extra) {
  const Lookup columns = [&](const std::string& name) -> std::optional<std::string> {
    if (extra) {
      if (auto text = extra(name)) return text;
    }
    const auto column = row.find(name);
    if (column == row.end()) {
      throw DataError(
          fmt::format("prompt_template asks for {{{}}}, but the row's columns are: {} (write {{{{ and }}}} for "
                      "braces that stand for themselves)",
                      name, column_names(row)));
    }
    return as_text(*column);
  };
  return fill_prompt_template(prompt_template, columns);
}

bool prompt_template_uses(std::string_view prompt_template, std::string_view name) {
  return prompt_template.find(fmt::format("{{{}}}", name)) != std::string_view::npos;
}

}  // namespace qlora
