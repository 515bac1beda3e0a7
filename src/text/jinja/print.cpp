// Python's str() and repr() of template values, and the names its messages use.
#include <charconv>
#include <cmath>

#include <fmt/format.h>

#include "qlora/text/jinja/unicode.h"
#include "qlora/text/jinja/value.h"

namespace qlora::jinja {

std::string Object::description() {
  return "<object>";
}

std::string_view type_name(const Value& value) {
  switch (value.kind()) {
    case Kind::kMissing:
    case Kind::kUndefined:
      return "Undefined";
    case Kind::kNone:
      return "NoneType";
    case Kind::kBool:
      return "bool";
    case Kind::kInt:
      return "int";
    case Kind::kFloat:
      return "float";
    case Kind::kString:
      return value.markup() ? "Markup" : "str";
    case Kind::kList:
      return "list";
    case Kind::kTuple:
      return "tuple";
    case Kind::kDict:
      return "dict";
    case Kind::kRange:
      return "range";
    case Kind::kDictView:
      return "dict view";
    case Kind::kGenerator:
      return "generator";
    case Kind::kNamespace:
      return "Namespace";
    case Kind::kMacro:
      return "Macro";
    case Kind::kFunction:
      return "function";
    case Kind::kMethod:
      return "method";
    case Kind::kLoop:
      return "LoopContext";
    case Kind::kCycler:
      return "Cycler";
    case Kind::kJoiner:
      return "Joiner";
  }
  return "object";
}

namespace {

// How messages speak of the value that lacked an attribute.
std::string owner_name(Kind kind) {
  if (kind == Kind::kNone) return "None";
  if (kind == Kind::kUndefined) return "an undefined value";
  switch (kind) {
    case Kind::kDict:
      return "'dict object'";
    case Kind::kList:
      return "'list object'";
    case Kind::kTuple:
      return "'tuple object'";
    case Kind::kString:
      return "'str object'";
    case Kind::kInt:
      return "'int object'";
    case Kind::kFloat:
      return "'float object'";
    case Kind::kBool:
      return "'bool object'";
    case Kind::kNamespace:
      return "the namespace";
    case Kind::kLoop:
      return "the loop";
    default:
      return "the object";
  }
}

}  // namespace

std::string undefined_message(const Value& value) {
  switch (value.absence()) {
    case Absence::kVariable:
      return fmt::format("'{}' is undefined", value.text());
    case Absence::kAttribute:
      return fmt::format("{} has no attribute '{}'", owner_name(value.owner_kind()), value.text());
    case Absence::kUnsafe:
      return fmt::format("access to attribute '{}' of {} is unsafe", value.text(), owner_name(value.owner_kind()));
    case Absence::kHint:
      break;
  }
  return std::string(value.text());
}

void fail_undefined(const Value& value) {
  fail(undefined_message(value));
}

void append_float(std::string& out, double value) {
  if (std::isnan(value)) {
    out += "nan";
    return;
  }
  if (std::isinf(value)) {
    out += value < 0 ? "-inf" : "inf";
    return;
  }
  char buffer[40];
  const double magnitude = std::abs(value);
  const bool plain = magnitude == 0 || (magnitude >= 1e-4 && magnitude < 1e16);
  const auto format = plain ? std::chars_format::fixed : std::chars_format::scientific;
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), value, format).ptr;
  const std::string_view text(buffer, static_cast<std::size_t>(end - buffer));
  out += text;
  if (plain && text.find('.') == std::string_view::npos) out += ".0";
}

void append_string_repr(std::string& out, std::string_view text) {
  const bool double_quoted = text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos;
  const char quote = double_quoted ? '"' : '\'';
  out += quote;
  for (std::size_t at = 0; at < text.size(); at += unicode::sequence_length(text, at)) {
    const char32_t c = unicode::decode(text, at);
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (unicode::is_printable(c)) {
      out += text.substr(at, unicode::sequence_length(text, at));
    } else if (c < 0x100) {
      out += fmt::format("\\x{:02x}", static_cast<std::uint32_t>(c));
    } else {
      out += c < 0x10000 ? fmt::format("\\u{:04x}", static_cast<std::uint32_t>(c))
                         : fmt::format("\\U{:08x}", static_cast<std::uint32_t>(c));
    }
  }
  out += quote;
}

namespace {

void append_items_repr(Budget& budget, std::string& out, const Value& value, int depth) {
  const bool tuple = value.is(Kind::kTuple);
  out += tuple ? '(' : '[';
  for (std::size_t i = 0; i < value.size(); ++i) {
    if (i) out += ", ";
    append_repr(budget, out, value.item(i), depth);
  }
  if (tuple && value.size() == 1) out += ',';
  out += tuple ? ')' : ']';
}

void append_dict_repr(Budget& budget, std::string& out, const Value& value, int depth) {
  out += '{';
  for (std::size_t i = 0; i < value.size(); ++i) {
    if (i) out += ", ";
    append_repr(budget, out, value.key_at(i), depth);
    out += ": ";
    append_repr(budget, out, value.value_at(i), depth);
  }
  out += '}';
}

void append_view_repr(Budget& budget, std::string& out, const DictViewObject& view, int depth) {
  using Part = DictViewObject::Part;
  out += view.part == Part::kKeys ? "dict_keys([" : view.part == Part::kValues ? "dict_values([" : "dict_items([";
  for (std::size_t i = 0; i < view.dict.size(); ++i) {
    if (i) out += ", ";
    if (view.part == Part::kItems) {
      out += '(';
      append_repr(budget, out, view.dict.key_at(i), depth);
      out += ", ";
      append_repr(budget, out, view.dict.value_at(i), depth);
      out += ')';
    } else {
      append_repr(budget, out, view.part == Part::kKeys ? view.dict.key_at(i) : view.dict.value_at(i), depth);
    }
  }
  out += "])";
}

void append_namespace_repr(Budget& budget, std::string& out, const NamespaceObject& space, int depth) {
  out += "<Namespace {";
  for (std::size_t i = 0; i < space.attributes.size(); ++i) {
    if (i) out += ", ";
    append_string_repr(out, space.attributes[i].first);
    out += ": ";
    append_repr(budget, out, space.attributes[i].second, depth);
  }
  out += "}>";
}

void append_range_repr(std::string& out, const RangeObject& range) {
  out += range.step == 1 ? fmt::format("range({}, {})", range.start, range.stop)
                         : fmt::format("range({}, {}, {})", range.start, range.stop, range.step);
}

}  // namespace

void append_repr(Budget& budget, std::string& out, const Value& value, int depth) {
  const std::size_t before = out.size();
  budget.step();
  if (depth > Budget::kNesting) fail(fmt::format("values are nested deeper than {}", Budget::kNesting));
  switch (value.kind()) {
    case Kind::kString:
      if (value.markup()) out += "Markup(";
      append_string_repr(out, value.text());
      if (value.markup()) out += ')';
      break;
    case Kind::kUndefined:
    case Kind::kMissing:
      out += "Undefined";
      break;
    case Kind::kNone:
      out += "None";
      break;
    case Kind::kBool:
      out += value.as_bool() ? "True" : "False";
      break;
    case Kind::kInt:
      fmt::format_to(std::back_inserter(out), "{}", value.as_integer());
      break;
    case Kind::kFloat:
      append_float(out, value.as_number());
      break;
    case Kind::kList:
    case Kind::kTuple:
      append_items_repr(budget, out, value, depth + 1);
      return;
    case Kind::kDict:
      append_dict_repr(budget, out, value, depth + 1);
      return;
    case Kind::kDictView:
      append_view_repr(budget, out, value.as<DictViewObject>(), depth + 1);
      return;
    case Kind::kNamespace:
      append_namespace_repr(budget, out, value.as<NamespaceObject>(), depth + 1);
      return;
    case Kind::kRange:
      append_range_repr(out, value.as<RangeObject>());
      break;
    case Kind::kFunction:
      out += "<function>";
      break;
    default:
      out += value.object()->description();
  }
  budget.bytes(out.size() - before);
}

void append_str(Budget& budget, std::string& out, const Value& value) {
  if (value.is_string()) {
    out += value.text();
  } else if (!value.is_undefined() && !value.is(Kind::kMissing)) {
    append_repr(budget, out, value);
  }
}

std::string to_str(Budget& budget, const Value& value) {
  std::string out;
  append_str(budget, out, value);
  return out;
}

std::string to_repr(Budget& budget, const Value& value) {
  std::string out;
  append_repr(budget, out, value);
  return out;
}

}  // namespace qlora::jinja
