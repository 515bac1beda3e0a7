// What templates can call: filters, tests, methods of values, global functions.
#pragma once

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "qlora/text/jinja/value.h"

namespace qlora::jinja {

class Render;

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<Value, Value>> keywords;  // names are strings

  // Missing where it was not given.
  const Value& operator[](std::size_t index) const;
  bool has(std::size_t index) const { return !(*this)[index].is(Kind::kMissing); }
};

// The parameters of a callable: "name,other" in order, the first `required` of which must be given. "*" takes any.
struct Parameters {
  std::string_view names;
  std::size_t required = 0;
};
// Puts keywords in their positions. Fails for what Python calls a TypeError.
void bind(std::string_view callee, const Parameters& parameters, Arguments& arguments);

struct FilterSpec {
  std::string_view name;
  Value (*function)(Render&, const Value& subject, Arguments&);
  Parameters parameters;
};

struct TestSpec {
  std::string_view name;
  bool (*function)(Render&, const Value& subject, Arguments&);
  Parameters parameters;
};

// Null where there is none of that name.
const FilterSpec* find_filter(std::string_view name);
const TestSpec* find_test(std::string_view name);
Value apply_filter(Render& render, const FilterSpec& filter, const Value& subject, Arguments& arguments);
bool apply_test(Render& render, const TestSpec& test, const Value& subject, Arguments& arguments);

// Groups of the filter table, one a source file.
std::vector<FilterSpec> text_filters();
std::vector<FilterSpec> number_filters();
std::vector<FilterSpec> sequence_filters();
std::vector<FilterSpec> selection_filters();

enum class MethodId : std::uint8_t {
  kNone,
  kCapitalize,
  kCasefold,
  kCenter,
  kCount,
  kEncode,
  kEndswith,
  kExpandtabs,
  kFind,
  kFormat,
  kFormatMap,
  kIndex,
  kIsalnum,
  kIsalpha,
  kIsascii,
  kIsdecimal,
  kIsdigit,
  kIsidentifier,
  kIslower,
  kIsnumeric,
  kIsprintable,
  kIsspace,
  kIstitle,
  kIsupper,
  kJoin,
  kLjust,
  kLower,
  kLstrip,
  kMaketrans,
  kPartition,
  kRemoveprefix,
  kRemovesuffix,
  kReplace,
  kRfind,
  kRindex,
  kRjust,
  kRpartition,
  kRsplit,
  kRstrip,
  kSplit,
  kSplitlines,
  kStartswith,
  kStrip,
  kSwapcase,
  kTitle,
  kTranslate,
  kUpper,
  kZfill,
  // of lists, tuples, dicts
  kAppend,
  kClear,
  kCopy,
  kExtend,
  kInsert,
  kPop,
  kRemove,
  kReverse,
  kSort,
  kFromkeys,
  kGet,
  kItems,
  kKeys,
  kPopitem,
  kSetdefault,
  kUpdate,
  kValues,
  // of loop, cyclers, floats
  kCycle,
  kChanged,
  kNext,
  kReset,
  kIsInteger,
};

// kNone for names that are no method of any value.
MethodId method_named(std::string_view name);
bool has_method(const Value& value, MethodId method);
// Whether calling it would change a list or a dict, which the sandbox forbids.
bool is_mutating(const Value& value, MethodId method);
Value call_method(Render& render, const Value& self, MethodId method, Arguments& arguments);
Value call_string_method(Render& render, const Value& self, MethodId method, Arguments& arguments);
Value call_character_class(const Value& self, MethodId method);

struct MethodObject : Object {
  Value self;
  MethodId method = MethodId::kNone;
};

// Missing where there is no such global.
Value global_named(std::string_view name);
Value call_function(Render& render, const Value& function, Arguments& arguments);

// Python's operators. Fail where Python raises.
Value add(Render& render, const Value& left, const Value& right);
Value subtract(const Value& left, const Value& right);
Value multiply(Render& render, const Value& left, const Value& right);
Value divide(const Value& left, const Value& right);
Value floor_divide(const Value& left, const Value& right);
Value modulo(Render& render, const Value& left, const Value& right);
Value power(const Value& left, const Value& right);

// object.name and object[index], with jinja2's fallbacks and the sandbox's refusals.
Value attribute(Render& render, const Value& object, std::string_view name, MethodId method);
Value item(Render& render, const Value& object, const Value& index);
Value slice(Render& render, const Value& object, const Value& start, const Value& stop, const Value& step);
Value slice_of_string(Render& render, const Value& text, const Value& start, const Value& stop, const Value& step);

// Text as Markup.escape has it.
std::string escape_html(std::string_view text);
// The string as it takes part in an operation with markup: escaped unless it is markup itself.
std::string as_markup(Render& render, const Value& value);

// text % values, and str.format.
std::string format_percent(Render& render, std::string_view text, const Value& values);
std::string format_braces(Render& render, std::string_view text, const Arguments& arguments);
// One value by a format specification ("<10", ".2f").
std::string format_value(Render& render, const Value& value, std::string_view specification);

// Python's int() and float() of a string; false where it raises ValueError.
bool parse_integer(std::string_view text, int base, std::int64_t& result);
bool parse_float(std::string_view text, double& result);
Value round_number(const Value& value, std::int64_t digits, bool has_digits);

// An argument as an int or a string; fails, naming it, where it is not.
std::int64_t integer_argument(const Value& value, std::string_view name);
std::string_view string_argument(const Value& value, std::string_view name);

}  // namespace qlora::jinja
