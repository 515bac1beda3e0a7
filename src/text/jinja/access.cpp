// a.b, a[b] and a[b:c]: attributes before items or the other way round, as jinja2's sandbox looks them up.
#include <algorithm>

#include <fmt/format.h>

#include "qlora/text/jinja/runtime.h"
#include "qlora/text/jinja/unicode.h"

namespace qlora::jinja {
namespace {

// Attributes that every Python object has; the sandbox gives none of them out.
bool is_internal(std::string_view name) {
  if (!name.starts_with("__") || !name.ends_with("__")) return false;
  static constexpr std::string_view kNames[] = {
      "__class__",        "__delattr__",       "__dir__",          "__doc__",        "__eq__",      "__format__",
      "__ge__",           "__getattr__",       "__getattribute__", "__getstate__",   "__gt__",      "__hash__",
      "__init__",         "__init_subclass__", "__le__",           "__lt__",         "__ne__",      "__new__",
      "__reduce__",       "__reduce_ex__",     "__repr__",         "__setattr__",    "__sizeof__",  "__str__",
      "__subclasshook__", "__len__",           "__iter__",         "__contains__",   "__getitem__", "__dict__",
      "__globals__",      "__mro__",           "__bases__",        "__subclasses__", "__module__",  "__call__",
      "__self__",         "__func__",          "__code__",         "__builtins__",   "__name__",    "__qualname__"};
  return std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames);
}

Value make_method(const Value& self, MethodId method) {
  auto* object = new MethodObject;
  object->self = self;
  object->method = method;
  object->depth = self.depth() + 1;
  Value value = Value::counted(Kind::kMethod, object);
  if (object->depth > Budget::kNesting) fail(fmt::format("values are nested deeper than {}", Budget::kNesting));
  return value;
}

Value number_attribute(const Value& number, std::string_view name) {
  if (name == "real") return number.is(Kind::kBool) ? Value::integer(number.as_integer()) : number;
  if (name == "imag") return number.is(Kind::kFloat) ? Value::number(0) : Value::integer(0);
  if (number.is(Kind::kFloat)) return {};
  if (name == "numerator") return Value::integer(number.as_integer());
  if (name == "denominator") return Value::integer(1);
  return {};
}

// What Python's getattr finds that is no method; missing where there is nothing.
Value own_attribute(Render& render, const Value& object, std::string_view name) {
  switch (object.kind()) {
    case Kind::kBool:
    case Kind::kInt:
    case Kind::kFloat:
      return number_attribute(object, name);
    case Kind::kTuple:
      if (object.json() || !object.as<ListObject>().group) return {};
      if (name == "grouper") return object.item(0);
      return name == "list" ? object.item(1) : Value();
    case Kind::kRange: {
      const auto& range = object.as<RangeObject>();
      if (name == "start") return Value::integer(range.start);
      if (name == "stop") return Value::integer(range.stop);
      return name == "step" ? Value::integer(range.step) : Value();
    }
    case Kind::kNamespace: {
      const Value* found = object.as<NamespaceObject>().find(name);
      return found ? *found : Value();
    }
    case Kind::kLoop:
      return object.as<LoopObject>().attribute(name);
    case Kind::kCycler: {
      const auto& cycler = object.as<CyclerObject>();
      return name == "current" ? cycler.items[cycler.position] : Value();
    }
    case Kind::kMacro:
      return name == "name" ? Value::view(render.keep(object.as<MacroObject>().definition->name)) : Value();
    default:
      return {};
  }
}

// getattr() under the sandbox: a value, an undefined value that says "unsafe", or missing.
Value find_attribute(Render& render, const Value& object, std::string_view name, MethodId method) {
  if (method != MethodId::kNone && has_method(object, method)) {
    if (is_mutating(object, method)) return Value::undefined(Absence::kUnsafe, render.keep(name), object.kind());
    return make_method(object, method);
  }
  if (name.starts_with("_") && is_internal(name)) {
    return Value::undefined(Absence::kUnsafe, render.keep(name), object.kind());
  }
  return own_attribute(render, object, name);
}

Value absent(Render& render, const Value& object, std::string_view name, bool keep) {
  return Value::undefined(Absence::kAttribute, keep ? render.keep(name) : name, object.kind());
}

}  // namespace

Value attribute(Render& render, const Value& object, std::string_view name, MethodId method) {
  if (object.is_undefined()) fail_undefined(object);
  Value found;
  if (object.is(Kind::kDict) && method == MethodId::kNone && !name.starts_with("_")) {  // the common case
    return object.find(name, found) ? found : absent(render, object, name, false);
  }
  found = find_attribute(render, object, name, method);
  if (!found.is(Kind::kMissing)) return found;
  if (object.is(Kind::kDict) && object.find(name, found)) return found;
  return absent(render, object, name, false);
}

namespace {

// The position of a Python index in a sequence of that length, or false where it lies outside.
bool position(const Value& index, std::size_t length, std::size_t& at) {
  std::int64_t i = index.as_integer();
  if (i < 0) i += static_cast<std::int64_t>(length);
  if (i < 0 || i >= static_cast<std::int64_t>(length)) return false;
  at = static_cast<std::size_t>(i);
  return true;
}

Value character(Render& render, const Value& text, const Value& index) {
  const std::string_view whole = text.text();
  std::size_t at = 0;
  render.step(static_cast<std::int64_t>(whole.size() / 64));
  if (!position(index, unicode::length(whole), at)) return {};
  const std::size_t begin = unicode::offset(whole, at);
  const std::string_view found = whole.substr(begin, unicode::sequence_length(whole, begin));
  return text.is_view() ? Value::view(found, text.markup()) : Value::string(render, std::string(found), text.markup());
}

// object[index] of Python; missing for a TypeError or a LookupError.
Value subscript(Render& render, const Value& object, const Value& index) {
  std::size_t at = 0;
  Value found;
  switch (object.kind()) {
    case Kind::kDict:
      return is_hashable(index) && object.find(render, index, found) ? found : Value();
    case Kind::kList:
    case Kind::kTuple:
      return index.is_integral() && position(index, object.size(), at) ? object.item(at) : Value();
    case Kind::kString:
      return index.is_integral() ? character(render, object, index) : Value();
    case Kind::kRange: {
      const auto& range = object.as<RangeObject>();
      if (!index.is_integral() || !position(index, static_cast<std::size_t>(range.count), at)) return {};
      return Value::integer(range.start + static_cast<std::int64_t>(at) * range.step);
    }
    default:
      return {};
  }
}

}  // namespace

Value item(Render& render, const Value& object, const Value& index) {
  if (object.is_undefined()) fail_undefined(object);
  Value found = subscript(render, object, index);
  if (!found.is(Kind::kMissing)) return found;
  if (index.is_string()) {
    found = find_attribute(render, object, index.text(), method_named(index.text()));
    if (!found.is(Kind::kMissing)) return found;
  }
  if (!index.is_string()) return absent(render, object, to_repr(render, index), true);
  return absent(render, object, index.text(), !index.is_view());
}

namespace {

struct Span {
  std::int64_t start, step, count;
};

std::int64_t slice_bound(const Value& value, std::int64_t length, std::int64_t absent_value, std::int64_t low,
                         std::int64_t high) {
  if (value.is(Kind::kNone)) return absent_value;
  if (value.is_undefined()) fail("slice indices must be integers or None");
  if (!value.is_integral()) fail("slice indices must be integers or None");
  std::int64_t index = value.as_integer();
  if (index < 0) index += length;
  return std::clamp(index, low, high);
}

Span span_of(const Value& start, const Value& stop, const Value& step, std::size_t size) {
  const auto length = static_cast<std::int64_t>(size);
  std::int64_t by = 1;
  if (!step.is(Kind::kNone)) {
    if (!step.is_integral()) fail("slice indices must be integers or None");
    by = step.as_integer();
    if (by == 0) fail("slice step cannot be zero");
    by = std::clamp(by, -length - 1, length + 1);
  }
  const bool forward = by > 0;
  const std::int64_t low = forward ? 0 : -1, high = forward ? length : length - 1;
  const std::int64_t from = slice_bound(start, length, forward ? 0 : length - 1, low, high);
  const std::int64_t to = slice_bound(stop, length, forward ? length : -1, low, high);
  const std::int64_t distance = forward ? to - from : from - to;
  return {from, by, distance > 0 ? (distance - 1) / (forward ? by : -by) + 1 : 0};
}

}  // namespace

Value slice_of_string(Render& render, const Value& text, const Value& start, const Value& stop, const Value& step) {
  const std::string_view whole = text.text();
  render.step(static_cast<std::int64_t>(whole.size() / 64));
  const Span span = span_of(start, stop, step, unicode::length(whole));
  if (span.step == 1) {
    const std::size_t begin = unicode::offset(whole, static_cast<std::size_t>(std::max<std::int64_t>(span.start, 0)));
    const std::string_view rest = whole.substr(begin);
    const std::string_view part = rest.substr(0, unicode::offset(rest, static_cast<std::size_t>(span.count)));
    return text.is_view() ? Value::view(part, text.markup()) : Value::string(render, std::string(part), text.markup());
  }
  const std::u32string characters = unicode::to_characters(whole);
  render.bytes(characters.size() * sizeof(char32_t));
  std::string out;
  for (std::int64_t i = 0; i < span.count; ++i) {
    unicode::append(out, characters[static_cast<std::size_t>(span.start + i * span.step)]);
  }
  return Value::string(render, std::move(out), text.markup());
}

Value slice(Render& render, const Value& object, const Value& start, const Value& stop, const Value& step) {
  if (object.is_undefined()) fail_undefined(object);
  if (object.is_string()) return slice_of_string(render, object, start, stop, step);
  if (object.is(Kind::kRange)) {
    const auto& range = object.as<RangeObject>();
    const Span span = span_of(start, stop, step, static_cast<std::size_t>(range.count));
    auto* part = new RangeObject;
    Value value = Value::counted(Kind::kRange, part);
    part->start = range.start + span.start * range.step;
    part->step = range.step * span.step;
    part->count = span.count;
    part->stop = part->start + part->count * part->step;
    return value;
  }
  if (!object.is_sequence()) fail(fmt::format("'{}' object cannot be sliced", type_name(object)));
  const Span span = span_of(start, stop, step, object.size());
  render.step(span.count / 8);
  std::vector<Value> items;
  items.reserve(static_cast<std::size_t>(span.count));
  for (std::int64_t i = 0; i < span.count; ++i) {
    items.push_back(object.item(static_cast<std::size_t>(span.start + i * span.step)));
  }
  return object.is(Kind::kList) ? list_of(render, std::move(items)) : tuple_of(render, std::move(items));
}

}  // namespace qlora::jinja
