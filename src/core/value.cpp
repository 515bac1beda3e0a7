// The untyped values of a config, and the texts that scalars are read from.
#include "qlora/core/value.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <utility>

#include <spdlog/fmt/fmt.h>

namespace qlora {
namespace {

std::string trimmed(const std::string& text) {
  const size_t first = text.find_first_not_of(" \t");
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

// std::from_chars takes no plus sign.
std::string_view without_plus(const std::string& text) {
  std::string_view view = text;
  if (view.size() > 1 && view[0] == '+' && view[1] != '-') view.remove_prefix(1);
  return view;
}

template <class Number>
bool whole_text_to(const std::string& text, Number& value) {
  const std::string_view view = without_plus(text);
  Number parsed{};
  const auto [end, error] = std::from_chars(view.data(), view.data() + view.size(), parsed);
  if (error != std::errc() || end != view.data() + view.size()) return false;
  value = parsed;
  return true;
}

}  // namespace

std::string Place::text() const {
  if (line == 0) return source;
  return fmt::format("{}:{}:{}", source, line, column);
}

Value Value::scalar(std::string text, Place place) {
  Value value;
  value.kind = Kind::kScalar;
  value.text = std::move(text);
  value.place = std::move(place);
  return value;
}

std::string Value::described() const {
  switch (kind) {
    case Kind::kNull:
      return "nothing";
    case Kind::kList:
      return "a list";
    case Kind::kMap:
      return "a map";
    case Kind::kScalar:
      break;
  }
  constexpr size_t kShown = 80;
  if (text.size() <= kShown) return "\"" + text + "\"";
  return "\"" + text.substr(0, kShown) + "...\"";
}

std::vector<std::string> split_at_commas(const std::string& text) {
  std::vector<std::string> parts;
  for (size_t start = 0; start <= text.size();) {
    const size_t comma = std::min(text.find(',', start), text.size());
    const std::string part = trimmed(text.substr(start, comma - start));
    if (!part.empty()) parts.push_back(part);
    start = comma + 1;
  }
  return parts;
}

bool text_to(const std::string& text, bool& value) {
  std::string lower = text;
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
  const bool yes = lower == "true" || lower == "yes" || lower == "on" || lower == "1";
  const bool no = lower == "false" || lower == "no" || lower == "off" || lower == "0";
  if (yes || no) value = yes;
  return yes || no;
}

bool text_to(const std::string& text, int64_t& value) {
  return whole_text_to(text, value);
}

bool text_to(const std::string& text, double& value) {
  double parsed = 0;
  if (!whole_text_to(text, parsed) || !std::isfinite(parsed)) return false;
  value = parsed;
  return true;
}

bool text_to(const std::string& text, std::string& value) {
  value = text;
  return true;
}

Json open_json(const Value& value) {
  Json json;
  switch (value.kind) {
    case Value::Kind::kNull:
      break;
    case Value::Kind::kList:
      json = Json::array();
      for (const Value& item : value.items) json.push_back(open_json(item));
      break;
    case Value::Kind::kMap:
      json = Json::object();
      for (const Entry& entry : value.entries) json[entry.key] = open_json(entry.value);
      break;
    case Value::Kind::kScalar: {
      int64_t whole = 0;
      double number = 0;
      if (value.quoted) return value.text;
      if (value.text == "true" || value.text == "false") return value.text == "true";
      if (text_to(value.text, whole)) return whole;
      if (text_to(value.text, number)) return number;
      return value.text;
    }
  }
  return json;
}

}  // namespace qlora
