// How arguments meet parameters, the tables of filters and methods, global functions.
#include "qlora/text/jinja/library.h"

#include <algorithm>
#include <ctime>
#include <unordered_map>

#include <fmt/format.h>

#include "qlora/text/jinja/runtime.h"

namespace qlora::jinja {

const Value& Arguments::operator[](std::size_t index) const {
  static const Value kMissing;
  return index < positional.size() ? positional[index] : kMissing;
}

void bind(std::string_view callee, const Parameters& parameters, Arguments& arguments) {
  if (parameters.names == "*") return;
  const auto count =
      parameters.names.empty() ? 0 : 1 + std::count(parameters.names.begin(), parameters.names.end(), ',');
  const std::size_t given = arguments.positional.size();
  if (arguments.keywords.empty() && given >= parameters.required && given <= static_cast<std::size_t>(count)) return;
  std::vector<std::string_view> names;
  for (std::string_view rest = parameters.names; !rest.empty();) {
    const std::size_t comma = std::min(rest.find(','), rest.size());
    names.push_back(rest.substr(0, comma));
    rest.remove_prefix(std::min(comma + 1, rest.size()));
  }
  if (arguments.positional.size() > names.size()) {
    fail(
        fmt::format("{}() takes at most {} argument(s) ({} given)", callee, names.size(), arguments.positional.size()));
  }
  if (!arguments.keywords.empty()) arguments.positional.resize(names.size());
  for (auto& [name, value] : arguments.keywords) {
    const auto place = std::find(names.begin(), names.end(), name.text());
    if (place == names.end()) fail(fmt::format("{}() got an unexpected keyword argument '{}'", callee, name.text()));
    Value& slot = arguments.positional[static_cast<std::size_t>(place - names.begin())];
    if (!slot.is(Kind::kMissing)) fail(fmt::format("{}() got multiple values for argument '{}'", callee, name.text()));
    slot = value;
  }
  for (std::size_t i = 0; i < parameters.required; ++i) {
    if (!arguments.has(i)) fail(fmt::format("{}() lacks the argument '{}'", callee, names[i]));
  }
}

std::int64_t integer_argument(const Value& value, std::string_view name) {
  if (value.is_undefined()) fail_undefined(value);
  if (!value.is_integral()) fail(fmt::format("{}: an integer is required, not {}", name, type_name(value)));
  return value.as_integer();
}

std::string_view string_argument(const Value& value, std::string_view name) {
  if (value.is_undefined()) fail_undefined(value);
  if (!value.is_string()) fail(fmt::format("{}: a string is required, not {}", name, type_name(value)));
  return value.text();
}

// --- filters ---

const FilterSpec* find_filter(std::string_view name) {
  static const auto kTable = [] {
    std::unordered_map<std::string_view, FilterSpec> table;
    for (const auto& group : {text_filters(), number_filters(), sequence_filters(), selection_filters()}) {
      for (const FilterSpec& spec : group) table.emplace(spec.name, spec);
    }
    return table;
  }();
  const auto found = kTable.find(name);
  return found == kTable.end() ? nullptr : &found->second;
}

Value apply_filter(Render& render, const FilterSpec& filter, const Value& subject, Arguments& arguments) {
  render.step();
  bind(filter.name, filter.parameters, arguments);
  return filter.function(render, subject, arguments);
}

bool apply_test(Render& render, const TestSpec& test, const Value& subject, Arguments& arguments) {
  render.step();
  bind(test.name, test.parameters, arguments);
  return test.function(render, subject, arguments);
}

// --- global functions ---

namespace {

Value make_range(Render&, Arguments& arguments) {
  constexpr std::uint64_t kMaxRange = 100'000;  // the sandbox's own limit
  bind("range", {"start,stop,step", 1}, arguments);
  auto* range = new RangeObject;
  const Value value = Value::counted(Kind::kRange, range);
  const bool one = !arguments.has(1);
  range->start = one ? 0 : integer_argument(arguments[0], "range");
  range->stop = integer_argument(arguments[one ? 0 : 1], "range");
  range->step = arguments.has(2) ? integer_argument(arguments[2], "range") : 1;
  if (range->step == 0) fail("range() arg 3 must not be zero");
  const bool up = range->step > 0;
  const auto low = static_cast<std::uint64_t>(up ? range->start : range->stop);
  const auto high = static_cast<std::uint64_t>(up ? range->stop : range->start);
  const std::uint64_t stride =
      up ? static_cast<std::uint64_t>(range->step) : 0 - static_cast<std::uint64_t>(range->step);
  const bool empty = up ? range->stop <= range->start : range->stop >= range->start;
  const std::uint64_t count = empty ? 0 : (high - low - 1) / stride + 1;
  if (count > kMaxRange) fail(fmt::format("range too big: the sandbox blocks ranges larger than {}", kMaxRange));
  range->count = static_cast<std::int64_t>(count);
  return value;
}

// dict(mapping or pairs, **keywords)
Value make_dict(Render& render, Arguments& arguments) {
  DictBuilder builder(render);
  if (arguments.positional.size() > 1) fail("dict expected at most 1 argument");
  if (arguments.has(0)) {
    const Value& source = arguments[0];
    if (source.is(Kind::kDict)) {
      for (std::size_t i = 0; i < source.size(); ++i) builder.set(source.key_at(i), source.value_at(i));
    } else {
      for (const Value& pair : to_vector(render, source)) {
        const std::vector<Value> parts = to_vector(render, pair);
        if (parts.size() != 2) fail("dict(): every element must be a pair of key and value");
        builder.set(parts[0], parts[1]);
      }
    }
  }
  for (auto& [name, value] : arguments.keywords) builder.set(name, value);
  return builder.finish();
}

Value make_namespace(Render& render, Arguments& arguments) {
  const Value attributes = make_dict(render, arguments);
  auto space = std::make_unique<NamespaceObject>();
  for (std::size_t i = 0; i < attributes.size(); ++i) {
    const Value key = attributes.key_at(i);
    if (!key.is_string()) fail("a namespace's attributes must have names");
    if (key.text().starts_with("_")) fail("a namespace cannot hold attributes that start with an underscore");
    space->attributes.emplace_back(key.text(), attributes.value_at(i));
  }
  return Value::pinned(Kind::kNamespace, render.pin(std::move(space)));
}

Value raise_exception(Render& render, Arguments& arguments) {
  bind("raise_exception", {"message", 1}, arguments);
  fail(to_str(render, arguments[0]));
}

Value strftime_now(Render& render, Arguments& arguments) {
  bind("strftime_now", {"format", 1}, arguments);
  // One character of format yields a few of text at most; the mark keeps an empty result apart from a short buffer.
  const std::string format = std::string(string_argument(arguments[0], "strftime_now")) + '\1';
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  std::string text(format.size() * 64 + 64, '\0');
  render.bytes(text.size());
  text.resize(std::strftime(text.data(), text.size(), format.c_str(), &local));
  if (!text.empty()) text.pop_back();
  return Value::string(render, std::move(text));
}

Value make_cycler(Render& render, Arguments& arguments) {
  if (!arguments.keywords.empty()) fail("cycler() takes no keyword arguments");
  if (arguments.positional.empty()) fail("at least one item has to be provided");
  auto cycler = std::make_unique<CyclerObject>();
  cycler->items = arguments.positional;
  return Value::pinned(Kind::kCycler, render.pin(std::move(cycler)));
}

Value make_joiner(Render&, Arguments& arguments) {
  bind("joiner", {"sep", 0}, arguments);
  auto* joiner = new JoinerObject;
  joiner->separator = arguments.has(0) ? arguments[0] : Value::view(", ");
  joiner->depth = joiner->separator.depth() + 1;
  return Value::counted(Kind::kJoiner, joiner);
}

constexpr std::pair<std::string_view, Value (*)(Render&, Arguments&)> kFunctions[] = {
    {"range", make_range},          {"dict", make_dict},
    {"namespace", make_namespace},  {"raise_exception", raise_exception},
    {"strftime_now", strftime_now}, {"cycler", make_cycler},
    {"joiner", make_joiner},
};

}  // namespace

Value global_named(std::string_view name) {
  for (std::size_t i = 0; i < std::size(kFunctions); ++i) {
    if (kFunctions[i].first == name) return Value::function(static_cast<int>(i));
  }
  return {};
}

Value call_function(Render& render, const Value& function, Arguments& arguments) {
  return kFunctions[function.as_integer()].second(render, arguments);
}

}  // namespace qlora::jinja
