// Python's ==, <, in and hashing over template values.
#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "qlora/text/jinja/value.h"

namespace qlora::jinja {
namespace {

bool equal_numbers(const Value& left, const Value& right) {
  if (left.is_integral() && right.is_integral()) return left.as_integer() == right.as_integer();
  return left.as_number() == right.as_number();
}

bool equal_dicts(Budget& budget, const Value& left, const Value& right) {
  if (left.size() != right.size()) return false;
  for (std::size_t i = 0; i < left.size(); ++i) {
    Value other;
    if (!right.find(budget, left.key_at(i), other) || !equal(budget, left.value_at(i), other)) return false;
  }
  return true;
}

bool equal_sequences(Budget& budget, const Value& left, const Value& right) {
  if (left.size() != right.size()) return false;
  for (std::size_t i = 0; i < left.size(); ++i) {
    if (!equal(budget, left.item(i), right.item(i))) return false;
  }
  return true;
}

bool equal_ranges(const RangeObject& left, const RangeObject& right) {
  if (left.count != right.count) return false;
  return left.count == 0 || (left.start == right.start && (left.count == 1 || left.step == right.step));
}

int order(bool less, bool greater) {
  return less ? -1 : greater ? 1 : 0;
}

}  // namespace

bool equal(Budget& budget, const Value& left, const Value& right) {
  budget.step();
  if (left.is_number() && right.is_number()) return equal_numbers(left, right);
  if (left.kind() != right.kind()) return false;
  switch (left.kind()) {
    case Kind::kString:
      return left.text() == right.text();
    case Kind::kNone:
    case Kind::kUndefined:
      return true;
    case Kind::kList:
    case Kind::kTuple:
      return left.same_object(right) || equal_sequences(budget, left, right);
    case Kind::kDict:
      return left.same_object(right) || equal_dicts(budget, left, right);
    case Kind::kRange:
      return equal_ranges(left.as<RangeObject>(), right.as<RangeObject>());
    default:
      return left.same_object(right);
  }
}

int compare(Budget& budget, const Value& left, const Value& right, std::string_view symbol) {
  budget.step();
  if (left.is_undefined()) fail_undefined(left);
  if (right.is_undefined()) fail_undefined(right);
  if (left.is_integral() && right.is_integral()) {
    return order(left.as_integer() < right.as_integer(), left.as_integer() > right.as_integer());
  }
  if (left.is_number() && right.is_number()) {
    const double a = left.as_number(), b = right.as_number();
    if (std::isnan(a) || std::isnan(b)) fail("NaN cannot be ordered");
    return order(a<b, a> b);
  }
  if (left.is_string() && right.is_string()) {  // the order of UTF-8 bytes is that of code points
    const int result = left.text().compare(right.text());
    return order(result<0, result> 0);
  }
  if (left.is_sequence() && left.kind() == right.kind()) {
    const std::size_t common = std::min(left.size(), right.size());
    for (std::size_t i = 0; i < common; ++i) {
      const Value a = left.item(i), b = right.item(i);
      if (!equal(budget, a, b)) return compare(budget, a, b, symbol);
    }
    return order(left.size() < right.size(), left.size() > right.size());
  }
  fail(fmt::format("'{}' not supported between instances of '{}' and '{}'", symbol, type_name(left), type_name(right)));
}

bool contains(Budget& budget, const Value& container, const Value& item) {
  if (container.is_string()) {
    if (item.is_undefined()) fail_undefined(item);
    if (!item.is_string()) {
      fail(fmt::format("'in <string>' requires string as left operand, not {}", type_name(item)));
    }
    budget.step(static_cast<std::int64_t>(container.text().size() / 64));
    return container.text().find(item.text()) != std::string_view::npos;
  }
  const bool keys = container.is(Kind::kDictView) && container.as<DictViewObject>().part == DictViewObject::Part::kKeys;
  if (container.is(Kind::kDict) || keys) {
    if (!is_hashable(item)) fail(fmt::format("unhashable type: '{}'", type_name(item)));
    Value found;
    return (keys ? container.as<DictViewObject>().dict : container).find(budget, item, found);
  }
  if (!is_iterable(container)) fail(fmt::format("argument of type '{}' is not iterable", type_name(container)));
  Cursor cursor(budget, container);
  for (Value value; cursor.next(value);) {
    if (equal(budget, value, item)) return true;
  }
  return false;
}

bool is_hashable(const Value& value) {
  if (value.is(Kind::kTuple)) {
    for (std::size_t i = 0; i < value.size(); ++i) {
      if (!is_hashable(value.item(i))) return false;
    }
    return true;
  }
  return !value.is(Kind::kList) && !value.is(Kind::kDict) && !value.is(Kind::kDictView);
}

void append_hash_key(std::string& key, const Value& value) {
  if (value.is_number()) {
    const double number = value.as_number();
    const bool exact = value.is_integral() || (number == std::floor(number) && std::abs(number) < 9e15);
    key += exact ? fmt::format("i{};", value.is_integral() ? value.as_integer() : static_cast<std::int64_t>(number))
                 : fmt::format("f{};", number);
  } else if (value.is_string()) {
    key += fmt::format("s{}:{}", value.text().size(), value.text());
  } else if (value.is(Kind::kTuple)) {
    key += '(';
    for (std::size_t i = 0; i < value.size(); ++i) append_hash_key(key, value.item(i));
    key += ')';
  } else if (is_hashable(value)) {
    const bool singleton = value.is(Kind::kNone) || value.is_undefined();
    key += fmt::format("o{}:{};", static_cast<int>(value.kind()), singleton ? 0 : value.as_integer());
  } else {
    fail(fmt::format("unhashable type: '{}'", type_name(value)));
  }
}

}  // namespace qlora::jinja
