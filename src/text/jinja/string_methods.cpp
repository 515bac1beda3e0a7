// The methods of str.
#include <algorithm>

#include <fmt/format.h>

#include "qlora/text/jinja/runtime.h"
#include "qlora/text/jinja/unicode.h"

namespace qlora::jinja {
namespace {

// A part of self, without copying where self is itself a view of the input or of the template.
Value part(Render& render, const Value& self, std::string_view text) {
  if (self.is_view()) return Value::view(text, self.markup());
  return Value::string(render, std::string(text), self.markup());
}

void no_keywords(std::string_view name, const Arguments& arguments) {
  if (!arguments.keywords.empty()) fail(fmt::format("{}() takes no keyword arguments", name));
}

Value strip(Render& render, const Value& self, MethodId method, Arguments& arguments) {
  no_keywords("strip", arguments);
  bind("strip", {"chars", 0}, arguments);
  std::string_view characters;
  const bool given = arguments.has(0) && !arguments[0].is(Kind::kNone);
  if (given) characters = string_argument(arguments[0], "strip");
  const std::string_view* chosen = given ? &characters : nullptr;
  render.step(static_cast<std::int64_t>(self.text().size() / 64));
  if (method == MethodId::kLstrip) return part(render, self, unicode::strip_left(self.text(), chosen));
  if (method == MethodId::kRstrip) return part(render, self, unicode::strip_right(self.text(), chosen));
  return part(render, self, unicode::strip(self.text(), chosen));
}

Value split_on_space(Render& render, const Value& self, std::int64_t limit, bool from_right) {
  std::vector<Value> parts;
  std::string_view rest = from_right ? unicode::strip_right(self.text()) : unicode::strip_left(self.text());
  while (!rest.empty()) {
    if (limit-- == 0) {
      parts.push_back(part(render, self, rest));
      break;
    }
    std::size_t cut = from_right ? rest.size() : 0;
    if (from_right) {
      while (cut > 0) {
        std::size_t start = cut - 1;
        while (start > 0 && (rest[start] & 0xc0) == 0x80) --start;
        if (unicode::is_space(unicode::decode(rest, start))) break;
        cut = start;
      }
      parts.push_back(part(render, self, rest.substr(cut)));
      rest = unicode::strip_right(rest.substr(0, cut));
    } else {
      while (cut < rest.size() && !unicode::is_space(unicode::decode(rest, cut))) {
        cut += unicode::sequence_length(rest, cut);
      }
      parts.push_back(part(render, self, rest.substr(0, cut)));
      rest = unicode::strip_left(rest.substr(cut));
    }
  }
  if (from_right) std::reverse(parts.begin(), parts.end());
  return list_of(render, std::move(parts));
}

Value split_on(Render& render, const Value& self, std::string_view separator, std::int64_t limit, bool from_right) {
  if (separator.empty()) fail("empty separator");
  std::vector<Value> parts;
  std::string_view rest = self.text();
  while (limit-- != 0) {
    const std::size_t at = from_right ? rest.rfind(separator) : rest.find(separator);
    if (at == std::string_view::npos) break;
    parts.push_back(part(render, self, from_right ? rest.substr(at + separator.size()) : rest.substr(0, at)));
    rest = from_right ? rest.substr(0, at) : rest.substr(at + separator.size());
    render.step();
  }
  parts.push_back(part(render, self, rest));
  if (from_right) std::reverse(parts.begin(), parts.end());
  return list_of(render, std::move(parts));
}

Value split(Render& render, const Value& self, MethodId method, Arguments& arguments) {
  bind("split", {"sep,maxsplit", 0}, arguments);
  render.step(static_cast<std::int64_t>(self.text().size() / 64));
  const std::int64_t limit = arguments.has(1) ? integer_argument(arguments[1], "split") : -1;
  const bool from_right = method == MethodId::kRsplit;
  if (!arguments.has(0) || arguments[0].is(Kind::kNone)) return split_on_space(render, self, limit, from_right);
  return split_on(render, self, string_argument(arguments[0], "split"), limit, from_right);
}

Value split_lines(Render& render, const Value& self, Arguments& arguments) {
  bind("splitlines", {"keepends", 0}, arguments);
  std::vector<Value> lines;
  for (const std::string_view line : unicode::split_lines(self.text(), arguments[0].truthy())) {
    render.step();
    lines.push_back(part(render, self, line));
  }
  return list_of(render, std::move(lines));
}

// The part of the text that optional start and end (in characters) select; false where it lies outside.
bool window(Render& render, const Value& self, const Arguments& arguments, std::string_view& text,
            std::int64_t& offset) {
  text = self.text();
  offset = 0;
  const auto given = [&](std::size_t i) { return arguments.has(i) && !arguments[i].is(Kind::kNone); };
  if (!given(1) && !given(2)) return true;
  render.step(static_cast<std::int64_t>(text.size() / 64));
  const auto length = static_cast<std::int64_t>(unicode::length(text));
  const auto bound = [&](std::size_t i, std::int64_t otherwise) {
    if (!given(i)) return otherwise;
    const std::int64_t value = integer_argument(arguments[i], "start and end");
    return value < 0 ? std::max<std::int64_t>(value + length, 0) : value;
  };
  offset = bound(1, 0);
  const std::int64_t end = std::min(bound(2, length), length);
  if (offset > end) return false;
  const std::size_t from = unicode::offset(text, static_cast<std::size_t>(offset));
  const std::size_t to = unicode::offset(text, static_cast<std::size_t>(end));
  text = text.substr(from, to - from);
  return true;
}

Value affix(Render& render, const Value& self, MethodId method, Arguments& arguments) {
  const bool starts = method == MethodId::kStartswith;
  const std::string_view name = starts ? "startswith" : "endswith";
  no_keywords(name, arguments);
  bind(name, {"prefix,start,end", 1}, arguments);
  std::string_view text;
  std::int64_t offset = 0;
  const bool inside = window(render, self, arguments, text, offset);
  const auto matches = [&](const Value& value) {
    const std::string_view wanted = string_argument(value, name);
    return inside && (starts ? text.starts_with(wanted) : text.ends_with(wanted));
  };
  if (!arguments[0].is(Kind::kTuple)) return Value::boolean(matches(arguments[0]));
  for (std::size_t i = 0; i < arguments[0].size(); ++i) {
    if (matches(arguments[0].item(i))) return Value::boolean(true);
  }
  return Value::boolean(false);
}

Value find(Render& render, const Value& self, MethodId method, Arguments& arguments) {
  no_keywords("find", arguments);
  bind("find", {"sub,start,end", 1}, arguments);
  std::string_view text;
  std::int64_t offset = 0;
  const std::string_view wanted = string_argument(arguments[0], "find");
  const bool inside = window(render, self, arguments, text, offset);
  render.step(static_cast<std::int64_t>(text.size() / 64));
  const bool last = method == MethodId::kRfind || method == MethodId::kRindex;
  const std::size_t at = !inside ? std::string_view::npos : last ? text.rfind(wanted) : text.find(wanted);
  if (at != std::string_view::npos) {
    return Value::integer(offset + static_cast<std::int64_t>(unicode::length(text.substr(0, at))));
  }
  if (method == MethodId::kIndex || method == MethodId::kRindex) fail("substring not found");
  return Value::integer(-1);
}

Value count(Render& render, const Value& self, Arguments& arguments) {
  no_keywords("count", arguments);
  bind("count", {"sub,start,end", 1}, arguments);
  std::string_view text;
  std::int64_t offset = 0;
  const std::string_view wanted = string_argument(arguments[0], "count");
  if (!window(render, self, arguments, text, offset)) return Value::integer(0);
  render.step(static_cast<std::int64_t>(text.size() / 64));
  if (wanted.empty()) return Value::integer(static_cast<std::int64_t>(unicode::length(text)) + 1);
  std::int64_t found = 0;
  for (std::size_t at = text.find(wanted); at != std::string_view::npos; at = text.find(wanted, at + wanted.size())) {
    ++found;
  }
  return Value::integer(found);
}

std::string replaced(Render& render, std::string_view text, std::string_view old, std::string_view fresh,
                     std::int64_t limit) {
  std::string out;
  std::size_t at = 0;
  while (limit != 0) {
    const std::size_t next = old.empty() ? at : text.find(old, at);
    if (next == std::string_view::npos || next > text.size()) break;
    --limit;
    out += text.substr(at, next - at);
    out += fresh;
    render.bytes(fresh.size());
    at = next + old.size();
    if (!old.empty()) continue;
    if (at >= text.size()) return out;
    const std::size_t length = unicode::sequence_length(text, at);
    out += text.substr(at, length);
    at += length;
  }
  out += text.substr(std::min(at, text.size()));
  return out;
}

Value replace(Render& render, const Value& self, Arguments& arguments) {
  no_keywords("replace", arguments);
  bind("replace", {"old,new,count", 2}, arguments);
  const std::string_view old = string_argument(arguments[0], "replace");
  string_argument(arguments[1], "replace");
  const std::int64_t limit = arguments.has(2) ? integer_argument(arguments[2], "replace") : -1;
  const std::string fresh = self.markup() ? as_markup(render, arguments[1]) : std::string(arguments[1].text());
  return Value::string(render, replaced(render, self.text(), old, fresh, limit), self.markup());
}

Value join(Render& render, const Value& self, Arguments& arguments) {
  no_keywords("join", arguments);
  bind("join", {"iterable", 1}, arguments);
  std::string out;
  Cursor cursor(render, arguments[0]);
  bool first = true;
  for (Value item; cursor.next(item); first = false) {
    if (!first) {
      out += self.text();
      render.bytes(self.text().size());
    }
    if (self.markup()) {
      out += as_markup(render, item);
    } else if (item.is_string()) {
      render.bytes(item.text().size());
      out += item.text();
    } else {
      fail(fmt::format("sequence item: expected str instance, {} found", type_name(item)));
    }
  }
  return Value::string(render, std::move(out), self.markup());
}

Value pad(Render& render, const Value& self, MethodId method, Arguments& arguments) {
  no_keywords("justify", arguments);
  bind("justify", {"width,fillchar", 1}, arguments);
  const std::int64_t width = integer_argument(arguments[0], "width");
  const std::string_view fill = arguments.has(1) ? string_argument(arguments[1], "fillchar") : " ";
  if (unicode::length(fill) != 1) fail("the fill character must be exactly one character long");
  const auto length = static_cast<std::int64_t>(unicode::length(self.text()));
  const std::int64_t missing = std::max<std::int64_t>(width - length, 0);
  std::int64_t left = method == MethodId::kRjust ? missing : 0;
  if (method == MethodId::kCenter) left = missing / 2 + (missing & width & 1);
  if (missing > Budget::kBytes) fail("the width is too large");
  render.bytes(static_cast<std::size_t>(missing) * fill.size());
  std::string out;
  for (std::int64_t i = 0; i < left; ++i) out += fill;
  out += self.text();
  for (std::int64_t i = left; i < missing; ++i) out += fill;
  return Value::string(render, std::move(out), self.markup());
}

Value zero_fill(Render& render, const Value& self, Arguments& arguments) {
  bind("zfill", {"width", 1}, arguments);
  const std::string_view text = self.text();
  const std::int64_t missing =
      integer_argument(arguments[0], "zfill") - static_cast<std::int64_t>(unicode::length(text));
  if (missing > Budget::kBytes) fail("the width is too large");
  const bool sign = text.starts_with("-") || text.starts_with("+");
  const std::string zeros(static_cast<std::size_t>(std::max<std::int64_t>(missing, 0)), '0');
  return Value::string(render,
                       std::string(text.substr(0, sign ? 1 : 0)) + zeros + std::string(text.substr(sign ? 1 : 0)),
                       self.markup());
}

Value partition(Render& render, const Value& self, MethodId method, Arguments& arguments) {
  no_keywords("partition", arguments);
  bind("partition", {"sep", 1}, arguments);
  const std::string_view text = self.text(), separator = string_argument(arguments[0], "partition");
  if (separator.empty()) fail("empty separator");
  const bool last = method == MethodId::kRpartition;
  const std::size_t at = last ? text.rfind(separator) : text.find(separator);
  std::string_view head = text, middle, tail;
  if (at != std::string_view::npos) {
    head = text.substr(0, at);
    middle = separator;
    tail = text.substr(at + separator.size());
  } else if (last) {
    std::swap(head, tail);
  }
  return tuple_of(render, {part(render, self, head), part(render, self, middle), part(render, self, tail)});
}

Value expand_tabs(Render& render, const Value& self, Arguments& arguments) {
  bind("expandtabs", {"tabsize", 0}, arguments);
  const std::int64_t size = arguments.has(0) ? integer_argument(arguments[0], "expandtabs") : 8;
  if (size > 1'000'000) fail("the tab size is too large");
  std::string out;
  std::int64_t column = 0;
  for (const char c : self.text()) {
    if (c == '\t') {
      const std::int64_t count = size > 0 ? size - column % size : 0;
      render.bytes(static_cast<std::size_t>(count));
      out.append(static_cast<std::size_t>(count), ' ');
      column += count;
      continue;
    }
    out += c;
    if ((c & 0xc0) != 0x80) ++column;
    if (c == '\n' || c == '\r') column = 0;
  }
  return Value::string(render, std::move(out), self.markup());
}

Value without_affix(Render& render, const Value& self, MethodId method, Arguments& arguments) {
  bind("removeprefix", {"affix", 1}, arguments);
  std::string_view text = self.text();
  const std::string_view wanted = string_argument(arguments[0], "removeprefix");
  if (method == MethodId::kRemoveprefix && text.starts_with(wanted)) text.remove_prefix(wanted.size());
  if (method == MethodId::kRemovesuffix && text.ends_with(wanted)) text.remove_suffix(wanted.size());
  return part(render, self, text);
}

Value change_case(Render& render, const Value& self, MethodId method, Arguments& arguments) {
  bind("upper", {}, arguments);
  render.step(static_cast<std::int64_t>(self.text().size() / 16));
  std::string (*change)(std::string_view) = unicode::upper;
  if (method == MethodId::kLower) change = unicode::lower;
  if (method == MethodId::kTitle) change = unicode::title;
  if (method == MethodId::kCapitalize) change = unicode::capitalize;
  if (method == MethodId::kSwapcase) change = unicode::swapcase;
  if (method == MethodId::kCasefold) change = unicode::casefold;
  return Value::string(render, change(self.text()), self.markup());
}

Value format(Render& render, const Value& self, MethodId method, Arguments& arguments) {
  if (self.markup()) fail("format() of text marked as safe is not supported");
  if (method == MethodId::kFormat) return Value::string(render, format_braces(render, self.text(), arguments));
  bind("format_map", {"mapping", 1}, arguments);
  if (!arguments[0].is(Kind::kDict)) fail("format_map() needs a mapping");
  Arguments named;
  for (std::size_t i = 0; i < arguments[0].size(); ++i) {
    if (arguments[0].key_at(i).is_string()) {
      named.keywords.emplace_back(arguments[0].key_at(i), arguments[0].value_at(i));
    }
  }
  return Value::string(render, format_braces(render, self.text(), named));
}

bool is_title_cased(std::string_view text) {
  bool cased = false, after_cased = false;
  for (const char32_t c : unicode::to_characters(text)) {
    if (unicode::is_upper(c) || unicode::is_title(c)) {
      if (after_cased) return false;
      after_cased = cased = true;
    } else if (unicode::is_lower(c)) {
      if (!after_cased) return false;
      cased = true;
    } else {
      after_cased = false;
    }
  }
  return cased;
}

bool is_cased_all(std::string_view text, bool lower) {
  bool cased = false;
  for (const char32_t c : unicode::to_characters(text)) {
    if ((lower ? unicode::is_upper(c) : unicode::is_lower(c)) || unicode::is_title(c)) return false;
    cased = cased || (lower ? unicode::is_lower(c) : unicode::is_upper(c));
  }
  return cased;
}

bool all_of(std::string_view text, bool (*test)(char32_t)) {
  const std::u32string characters = unicode::to_characters(text);
  return std::all_of(characters.begin(), characters.end(), test);
}

}  // namespace

Value call_character_class(const Value& self, MethodId method) {
  const std::string_view text = self.text();
  switch (method) {
    case MethodId::kIslower:
    case MethodId::kIsupper:
      return Value::boolean(is_cased_all(text, method == MethodId::kIslower));
    case MethodId::kIstitle:
      return Value::boolean(is_title_cased(text));
    case MethodId::kIsascii:
      return Value::boolean(all_of(text, [](char32_t c) { return c < 0x80; }));
    case MethodId::kIsprintable:
      return Value::boolean(all_of(text, unicode::is_printable));
    case MethodId::kIsidentifier:
      return Value::boolean(unicode::is_identifier(text));
    default:
      break;
  }
  bool (*test)(char32_t) = unicode::is_alphanumeric;
  if (method == MethodId::kIsalpha) test = unicode::is_letter;
  if (method == MethodId::kIsdecimal) test = unicode::is_decimal;
  if (method == MethodId::kIsdigit) test = unicode::is_digit;
  if (method == MethodId::kIsnumeric) test = unicode::is_numeric;
  if (method == MethodId::kIsspace) test = unicode::is_space;
  return Value::boolean(!text.empty() && all_of(text, test));
}

Value call_string_method(Render& render, const Value& self, MethodId method, Arguments& arguments) {
  switch (method) {
    case MethodId::kStrip:
    case MethodId::kLstrip:
    case MethodId::kRstrip:
      return strip(render, self, method, arguments);
    case MethodId::kSplit:
    case MethodId::kRsplit:
      return split(render, self, method, arguments);
    case MethodId::kSplitlines:
      return split_lines(render, self, arguments);
    case MethodId::kStartswith:
    case MethodId::kEndswith:
      return affix(render, self, method, arguments);
    case MethodId::kFind:
    case MethodId::kRfind:
    case MethodId::kIndex:
    case MethodId::kRindex:
      return find(render, self, method, arguments);
    case MethodId::kCount:
      return count(render, self, arguments);
    case MethodId::kReplace:
      return replace(render, self, arguments);
    case MethodId::kJoin:
      return join(render, self, arguments);
    case MethodId::kCenter:
    case MethodId::kLjust:
    case MethodId::kRjust:
      return pad(render, self, method, arguments);
    case MethodId::kZfill:
      return zero_fill(render, self, arguments);
    case MethodId::kPartition:
    case MethodId::kRpartition:
      return partition(render, self, method, arguments);
    case MethodId::kExpandtabs:
      return expand_tabs(render, self, arguments);
    case MethodId::kRemoveprefix:
    case MethodId::kRemovesuffix:
      return without_affix(render, self, method, arguments);
    case MethodId::kUpper:
    case MethodId::kLower:
    case MethodId::kTitle:
    case MethodId::kCapitalize:
    case MethodId::kSwapcase:
    case MethodId::kCasefold:
      return change_case(render, self, method, arguments);
    case MethodId::kFormat:
    case MethodId::kFormatMap:
      return format(render, self, method, arguments);
    case MethodId::kEncode:
    case MethodId::kMaketrans:
    case MethodId::kTranslate:
      fail("the str methods encode, maketrans and translate are not supported in a chat template");
    default:
      bind("character class", {}, arguments);
      render.step(static_cast<std::int64_t>(self.text().size() / 16));
      return call_character_class(self, method);
  }
}

}  // namespace qlora::jinja
