// Filters over text, and tojson.
#include <algorithm>

#include <fmt/format.h>

#include "qlora/text/jinja/json.h"
#include "qlora/text/jinja/runtime.h"
#include "qlora/text/jinja/unicode.h"

namespace qlora::jinja {
namespace {

bool given(const Arguments& arguments, std::size_t index) {
  return arguments.has(index) && !arguments[index].is(Kind::kNone);
}

// The value as text: a string as it is, anything else printed.
Value soft_string(Render& render, const Value& value) {
  return value.is_string() ? value : Value::string(render, to_str(render, value));
}

template <MethodId kMethod>
Value as_method(Render& render, const Value& value, Arguments& arguments) {
  return call_string_method(render, soft_string(render, value), kMethod, arguments);
}

// Words begin behind - ( { [ < and white space.
Value title(Render& render, const Value& value, Arguments&) {
  const Value text = soft_string(render, value);
  render.step(static_cast<std::int64_t>(text.text().size() / 16));
  const std::u32string characters = unicode::to_characters(text.text());
  const auto separates = [](char32_t c) {
    return unicode::is_space(c) || std::u32string_view(U"-({[<").find(c) != std::u32string_view::npos;
  };
  std::string out;
  for (std::size_t begin = 0; begin < characters.size();) {
    std::size_t end = begin + 1;
    while (end < characters.size() && separates(characters[end]) == separates(characters[begin])) ++end;
    out += unicode::upper(unicode::to_utf8({&characters[begin], 1}));
    out += unicode::lower(unicode::to_utf8({&characters[begin] + 1, end - begin - 1}));
    begin = end;
  }
  return Value::string(render, std::move(out), text.markup());
}

Value replace(Render& render, const Value& value, Arguments& arguments) {
  Arguments plain;
  for (std::size_t i = 0; i < 2; ++i) {
    plain.positional.push_back(Value::string(render, to_str(render, arguments[i])));
  }
  if (given(arguments, 2)) plain.positional.push_back(arguments[2]);
  const Value text = value.is_string() && !value.markup() ? value : Value::string(render, to_str(render, value));
  return call_string_method(render, text, MethodId::kReplace, plain);
}

Value mark_safe(Render& render, const Value& value, Arguments&) {
  if (value.is_string() && value.is_view()) return Value::view(value.text(), true);
  return Value::string(render, to_str(render, value), true);
}

Value escape(Render& render, const Value& value, Arguments&) {
  return Value::string(render, as_markup(render, value), true);
}

Value force_escape(Render& render, const Value& value, Arguments&) {
  return Value::string(render, escape_html(to_str(render, value)), true);
}

Value center(Render& render, const Value& value, Arguments& arguments) {
  if (!arguments.has(0)) arguments.positional.assign(1, Value::integer(80));
  return as_method<MethodId::kCenter>(render, value, arguments);
}

Value indent(Render& render, const Value& value, Arguments& arguments) {
  string_argument(value, "indent");
  std::string indention = "    ";
  if (arguments.has(0) && arguments[0].is_string()) {
    indention = arguments[0].text();
  } else if (arguments.has(0)) {
    const std::int64_t width = integer_argument(arguments[0], "indent");
    if (width > 1'000'000) fail("indent: the width is too large");
    indention.assign(static_cast<std::size_t>(std::max<std::int64_t>(width, 0)), ' ');
  }
  const bool first = arguments[1].truthy(), blank = arguments[2].truthy();
  const std::string text = std::string(value.text()) + "\n";
  std::string out = first ? indention : "";
  bool following = false;
  for (const std::string_view line : unicode::split_lines(text, false)) {
    if (following) {
      out += '\n';
      if (blank || !line.empty()) {
        render.bytes(indention.size());
        out += indention;
      }
    }
    out += line;
    following = true;
  }
  return Value::string(render, std::move(out), value.markup());
}

Value truncate(Render& render, const Value& value, Arguments& arguments) {
  const std::int64_t length = arguments.has(0) ? integer_argument(arguments[0], "truncate") : 255;
  const std::string_view end = arguments.has(2) ? string_argument(arguments[2], "truncate") : "...";
  const std::int64_t leeway = given(arguments, 3) ? integer_argument(arguments[3], "truncate") : 5;
  const auto end_length = static_cast<std::int64_t>(unicode::length(end));
  if (length < end_length) fail(fmt::format("expected length >= {}, got {}", end_length, length));
  if (leeway < 0) fail(fmt::format("expected leeway >= 0, got {}", leeway));
  const std::string_view text = string_argument(value, "truncate");
  if (static_cast<std::int64_t>(unicode::length(text)) <= length + leeway) return value;
  std::string_view kept = text.substr(0, unicode::offset(text, static_cast<std::size_t>(length - end_length)));
  if (!arguments[1].truthy()) kept = kept.substr(0, std::min(kept.rfind(' '), kept.size()));
  return Value::string(render, std::string(kept) + std::string(end), value.markup());
}

Value word_count(Render& render, const Value& value, Arguments&) {
  const Value text = soft_string(render, value);
  std::int64_t count = 0;
  bool within = false;
  for (const char32_t c : unicode::to_characters(text.text())) {
    const bool word = unicode::is_word(c);
    if (word && !within) ++count;
    within = word;
  }
  return Value::integer(count);
}

Value format(Render& render, const Value& value, Arguments& arguments) {
  if (!arguments.positional.empty() && !arguments.keywords.empty()) {
    fail("format: can't handle positional and keyword arguments at the same time");
  }
  Value values;
  if (arguments.keywords.empty()) {
    values = tuple_of(render, arguments.positional);
  } else {
    DictBuilder builder(render);
    for (auto& [name, content] : arguments.keywords) builder.set(name, content);
    values = builder.finish();
  }
  return modulo(render, soft_string(render, value), values);
}

std::string quoted(std::string_view text, bool query) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain =
        (byte < 0x80 && std::isalnum(byte)) || std::string_view("_.-~").find(c) != std::string_view::npos;
    if (plain || (c == '/' && !query)) {
      out += c;
    } else {
      out += query && c == ' ' ? std::string("+") : fmt::format("%{:02X}", byte);
    }
  }
  return out;
}

Value url_encode(Render& render, const Value& value, Arguments&) {
  if (value.is_string() || !is_iterable(value)) return Value::string(render, quoted(to_str(render, value), false));
  std::vector<Value> pairs;
  if (value.is(Kind::kDict)) {
    for (std::size_t i = 0; i < value.size(); ++i) {
      pairs.push_back(tuple_of(render, {value.key_at(i), value.value_at(i)}));
    }
  } else {
    pairs = to_vector(render, value);
  }
  std::string out;
  for (const Value& pair : pairs) {
    const std::vector<Value> parts = to_vector(render, pair);
    if (parts.size() != 2) fail("urlencode: every element must be a pair");
    if (!out.empty()) out += '&';
    out += quoted(to_str(render, parts[0]), true) + "=" + quoted(to_str(render, parts[1]), true);
  }
  return Value::string(render, std::move(out));
}

Value to_json(Render& render, const Value& value, Arguments& arguments) {
  JsonStyle style;
  style.ensure_ascii = arguments[0].truthy();
  if (given(arguments, 1)) {
    if (arguments[1].is_string()) {
      style.indent = arguments[1].text();
    } else {
      const std::int64_t width = integer_argument(arguments[1], "tojson");
      if (width > 1'000) fail("tojson: the indent is too large");
      style.indent = std::string(static_cast<std::size_t>(std::max<std::int64_t>(width, 0)), ' ');
    }
    style.item_separator = ",";
  }
  if (given(arguments, 2)) {
    const std::vector<Value> separators = to_vector(render, arguments[2]);
    if (separators.size() != 2) fail("tojson: separators must be two strings");
    style.item_separator = string_argument(separators[0], "tojson");
    style.key_separator = string_argument(separators[1], "tojson");
  }
  style.sort_keys = arguments[3].truthy();
  std::string out;
  append_json(render, out, value, style);
  return Value::string(render, std::move(out));
}

}  // namespace

std::vector<FilterSpec> text_filters() {
  return {
      {"upper", as_method<MethodId::kUpper>, {}},
      {"lower", as_method<MethodId::kLower>, {}},
      {"capitalize", as_method<MethodId::kCapitalize>, {}},
      {"trim", as_method<MethodId::kStrip>, {"chars", 0}},
      {"title", title, {}},
      {"replace", replace, {"old,new,count", 2}},
      {"string", [](Render& render, const Value& value, Arguments&) { return soft_string(render, value); }, {}},
      {"safe", mark_safe, {}},
      {"escape", escape, {}},
      {"e", escape, {}},
      {"forceescape", force_escape, {}},
      {"center", center, {"width", 0}},
      {"indent", indent, {"width,first,blank", 0}},
      {"truncate", truncate, {"length,killwords,end,leeway", 0}},
      {"wordcount", word_count, {}},
      {"format", format, {"*", 0}},
      {"urlencode", url_encode, {}},
      {"tojson", to_json, {"ensure_ascii,indent,separators,sort_keys", 0}},
  };
}

}  // namespace qlora::jinja
