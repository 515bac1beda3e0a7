// What stands behind `is`.
#include <unordered_map>

#include <fmt/format.h>

#include "qlora/text/jinja/runtime.h"

namespace qlora::jinja {
namespace {

bool is_callable(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kMacro:
    case Kind::kFunction:
    case Kind::kMethod:
    case Kind::kLoop:
    case Kind::kJoiner:
      return true;
    default:
      return false;
  }
}

// Has a length and can be indexed.
bool is_indexable(const Value& value) {
  return value.is_string() || value.is_sequence() || value.is(Kind::kDict) || value.is(Kind::kRange) ||
         value.is_undefined();
}

bool remainder_is(Render& render, const Value& value, const Value& divisor, std::int64_t remainder) {
  return equal(render, modulo(render, value, divisor), Value::integer(remainder));
}

bool has_case(Render& render, const Value& value, MethodId method) {
  return call_character_class(Value::string(render, to_str(render, value)), method).as_bool();
}

bool is_same(const Value& left, const Value& right) {
  if (left.is_string() && right.is_string()) return left.text() == right.text();
  return left.kind() == right.kind() && (left.is(Kind::kNone) || left.same_object(right));
}

using TestFunction = bool (*)(Render&, const Value&, Arguments&);

template <Kind kKind>
bool is_kind(Render&, const Value& value, Arguments&) {
  return value.is(kKind);
}

template <bool kValue>
bool is_bool(Render&, const Value& value, Arguments&) {
  return value.is(Kind::kBool) && value.as_bool() == kValue;
}

bool test_equal(Render& render, const Value& value, Arguments& arguments) {
  return equal(render, value, arguments[0]);
}
bool test_not_equal(Render& render, const Value& value, Arguments& arguments) {
  return !equal(render, value, arguments[0]);
}
bool test_greater(Render& render, const Value& value, Arguments& arguments) {
  return compare(render, value, arguments[0], ">") > 0;
}
bool test_greater_equal(Render& render, const Value& value, Arguments& arguments) {
  return compare(render, value, arguments[0], ">=") >= 0;
}
bool test_less(Render& render, const Value& value, Arguments& arguments) {
  return compare(render, value, arguments[0], "<") < 0;
}
bool test_less_equal(Render& render, const Value& value, Arguments& arguments) {
  return compare(render, value, arguments[0], "<=") <= 0;
}

constexpr Parameters kNone{};
constexpr Parameters kOther{"other", 1};

const TestSpec kTests[] = {
    {"defined", [](Render&, const Value& v, Arguments&) { return !v.is_undefined(); }, kNone},
    {"undefined", is_kind<Kind::kUndefined>, kNone},
    {"none", is_kind<Kind::kNone>, kNone},
    {"boolean", is_kind<Kind::kBool>, kNone},
    {"true", is_bool<true>, kNone},
    {"false", is_bool<false>, kNone},
    {"integer", is_kind<Kind::kInt>, kNone},
    {"float", is_kind<Kind::kFloat>, kNone},
    {"string", is_kind<Kind::kString>, kNone},
    {"mapping", is_kind<Kind::kDict>, kNone},
    {"number", [](Render&, const Value& v, Arguments&) { return v.is_number(); }, kNone},
    {"sequence", [](Render&, const Value& v, Arguments&) { return is_indexable(v); }, kNone},
    {"iterable", [](Render&, const Value& v, Arguments&) { return is_iterable(v); }, kNone},
    {"callable", [](Render&, const Value& v, Arguments&) { return is_callable(v); }, kNone},
    {"escaped", [](Render&, const Value& v, Arguments&) { return v.is_string() && v.markup(); }, kNone},
    {"sameas", [](Render&, const Value& v, Arguments& a) { return is_same(v, a[0]); }, kOther},
    {"lower", [](Render& r, const Value& v, Arguments&) { return has_case(r, v, MethodId::kIslower); }, kNone},
    {"upper", [](Render& r, const Value& v, Arguments&) { return has_case(r, v, MethodId::kIsupper); }, kNone},
    {"odd", [](Render& r, const Value& v, Arguments&) { return remainder_is(r, v, Value::integer(2), 1); }, kNone},
    {"even", [](Render& r, const Value& v, Arguments&) { return remainder_is(r, v, Value::integer(2), 0); }, kNone},
    {"divisibleby", [](Render& r, const Value& v, Arguments& a) { return remainder_is(r, v, a[0], 0); }, {"num", 1}},
    {"in", [](Render& r, const Value& v, Arguments& a) { return contains(r, a[0], v); }, {"seq", 1}},
    {"filter", [](Render&, const Value& v, Arguments&) { return v.is_string() && find_filter(v.text()) != nullptr; },
     kNone},
    {"test", [](Render&, const Value& v, Arguments&) { return v.is_string() && find_test(v.text()) != nullptr; },
     kNone},
    {"==", test_equal, kOther},
    {"eq", test_equal, kOther},
    {"equalto", test_equal, kOther},
    {"!=", test_not_equal, kOther},
    {"ne", test_not_equal, kOther},
    {">", test_greater, kOther},
    {"gt", test_greater, kOther},
    {"greaterthan", test_greater, kOther},
    {">=", test_greater_equal, kOther},
    {"ge", test_greater_equal, kOther},
    {"<", test_less, kOther},
    {"lt", test_less, kOther},
    {"lessthan", test_less, kOther},
    {"<=", test_less_equal, kOther},
    {"le", test_less_equal, kOther},
};

}  // namespace

const TestSpec* find_test(std::string_view name) {
  static const auto kTable = [] {
    std::unordered_map<std::string_view, const TestSpec*> table;
    for (const TestSpec& spec : kTests) table.emplace(spec.name, &spec);
    return table;
  }();
  const auto found = kTable.find(name);
  return found == kTable.end() ? nullptr : found->second;
}

}  // namespace qlora::jinja
