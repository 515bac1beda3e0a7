// Methods of lists, tuples, dicts, loops, cyclers: which values have which, and what they do.
#include <algorithm>
#include <cmath>
#include <unordered_map>

#include <fmt/format.h>

#include "qlora/text/jinja/runtime.h"

namespace qlora::jinja {
namespace {

constexpr std::uint8_t kText = 1, kListOwner = 2, kTupleOwner = 4, kDictOwner = 8, kLoopOwner = 16, kCyclerOwner = 32,
                       kFloatOwner = 64;

struct MethodEntry {
  std::string_view name;
  MethodId id;
  std::uint8_t owners;
};

constexpr MethodEntry kMethods[] = {
    {"capitalize", MethodId::kCapitalize, kText},
    {"casefold", MethodId::kCasefold, kText},
    {"center", MethodId::kCenter, kText},
    {"count", MethodId::kCount, kText | kListOwner | kTupleOwner},
    {"encode", MethodId::kEncode, kText},
    {"endswith", MethodId::kEndswith, kText},
    {"expandtabs", MethodId::kExpandtabs, kText},
    {"find", MethodId::kFind, kText},
    {"format", MethodId::kFormat, kText},
    {"format_map", MethodId::kFormatMap, kText},
    {"index", MethodId::kIndex, kText | kListOwner | kTupleOwner},
    {"isalnum", MethodId::kIsalnum, kText},
    {"isalpha", MethodId::kIsalpha, kText},
    {"isascii", MethodId::kIsascii, kText},
    {"isdecimal", MethodId::kIsdecimal, kText},
    {"isdigit", MethodId::kIsdigit, kText},
    {"isidentifier", MethodId::kIsidentifier, kText},
    {"islower", MethodId::kIslower, kText},
    {"isnumeric", MethodId::kIsnumeric, kText},
    {"isprintable", MethodId::kIsprintable, kText},
    {"isspace", MethodId::kIsspace, kText},
    {"istitle", MethodId::kIstitle, kText},
    {"isupper", MethodId::kIsupper, kText},
    {"join", MethodId::kJoin, kText},
    {"ljust", MethodId::kLjust, kText},
    {"lower", MethodId::kLower, kText},
    {"lstrip", MethodId::kLstrip, kText},
    {"maketrans", MethodId::kMaketrans, kText},
    {"partition", MethodId::kPartition, kText},
    {"removeprefix", MethodId::kRemoveprefix, kText},
    {"removesuffix", MethodId::kRemovesuffix, kText},
    {"replace", MethodId::kReplace, kText},
    {"rfind", MethodId::kRfind, kText},
    {"rindex", MethodId::kRindex, kText},
    {"rjust", MethodId::kRjust, kText},
    {"rpartition", MethodId::kRpartition, kText},
    {"rsplit", MethodId::kRsplit, kText},
    {"rstrip", MethodId::kRstrip, kText},
    {"split", MethodId::kSplit, kText},
    {"splitlines", MethodId::kSplitlines, kText},
    {"startswith", MethodId::kStartswith, kText},
    {"strip", MethodId::kStrip, kText},
    {"swapcase", MethodId::kSwapcase, kText},
    {"title", MethodId::kTitle, kText},
    {"translate", MethodId::kTranslate, kText},
    {"upper", MethodId::kUpper, kText},
    {"zfill", MethodId::kZfill, kText},
    {"append", MethodId::kAppend, kListOwner},
    {"clear", MethodId::kClear, kListOwner | kDictOwner},
    {"copy", MethodId::kCopy, kListOwner | kDictOwner},
    {"extend", MethodId::kExtend, kListOwner},
    {"insert", MethodId::kInsert, kListOwner},
    {"pop", MethodId::kPop, kListOwner | kDictOwner},
    {"remove", MethodId::kRemove, kListOwner},
    {"reverse", MethodId::kReverse, kListOwner},
    {"sort", MethodId::kSort, kListOwner},
    {"fromkeys", MethodId::kFromkeys, kDictOwner},
    {"get", MethodId::kGet, kDictOwner},
    {"items", MethodId::kItems, kDictOwner},
    {"keys", MethodId::kKeys, kDictOwner},
    {"popitem", MethodId::kPopitem, kDictOwner},
    {"setdefault", MethodId::kSetdefault, kDictOwner},
    {"update", MethodId::kUpdate, kDictOwner},
    {"values", MethodId::kValues, kDictOwner},
    {"cycle", MethodId::kCycle, kLoopOwner},
    {"changed", MethodId::kChanged, kLoopOwner},
    {"next", MethodId::kNext, kCyclerOwner},
    {"reset", MethodId::kReset, kCyclerOwner},
    {"is_integer", MethodId::kIsInteger, kFloatOwner},
};

std::uint8_t owner_bit(const Value& value) {
  switch (value.kind()) {
    case Kind::kString:
      return kText;
    case Kind::kList:
      return kListOwner;
    case Kind::kTuple:
      return kTupleOwner;
    case Kind::kDict:
      return kDictOwner;
    case Kind::kLoop:
      return kLoopOwner;
    case Kind::kCycler:
      return kCyclerOwner;
    case Kind::kFloat:
      return kFloatOwner;
    default:
      return 0;
  }
}

std::string_view name_of(MethodId method) {
  for (const MethodEntry& entry : kMethods) {
    if (entry.id == method) return entry.name;
  }
  return "method";
}

Value count_in(Render& render, const Value& self, Arguments& arguments) {
  bind("count", {"value", 1}, arguments);
  std::int64_t count = 0;
  for (std::size_t i = 0; i < self.size(); ++i) count += equal(render, self.item(i), arguments[0]) ? 1 : 0;
  return Value::integer(count);
}

Value index_in(Render& render, const Value& self, Arguments& arguments) {
  bind("index", {"value,start,stop", 1}, arguments);
  const auto size = static_cast<std::int64_t>(self.size());
  const auto bound = [&](std::size_t which, std::int64_t otherwise) {
    if (!arguments.has(which)) return otherwise;
    const std::int64_t value = integer_argument(arguments[which], "index");
    return std::clamp<std::int64_t>(value < 0 ? value + size : value, 0, size);
  };
  for (std::int64_t i = bound(1, 0); i < bound(2, size); ++i) {
    if (equal(render, self.item(static_cast<std::size_t>(i)), arguments[0])) return Value::integer(i);
  }
  fail(fmt::format("{} is not in the {}", to_repr(render, arguments[0]), type_name(self)));
}

Value view_of(const Value& dict, DictViewObject::Part part) {
  auto* view = new DictViewObject;
  view->dict = dict;
  view->part = part;
  view->depth = dict.depth() + 1;
  return Value::counted(Kind::kDictView, view);
}

Value call_dict_method(Render& render, const Value& self, MethodId method, Arguments& arguments) {
  using Part = DictViewObject::Part;
  switch (method) {
    case MethodId::kGet: {
      if (!arguments.keywords.empty()) fail("dict.get() takes no keyword arguments");
      bind("get", {"key,default", 1}, arguments);
      if (!is_hashable(arguments[0])) fail(fmt::format("unhashable type: '{}'", type_name(arguments[0])));
      Value found;
      if (self.find(render, arguments[0], found)) return found;
      return arguments.has(1) ? arguments[1] : Value::none();
    }
    case MethodId::kItems:
    case MethodId::kKeys:
    case MethodId::kValues:
      bind(name_of(method), {}, arguments);
      return view_of(self, method == MethodId::kItems  ? Part::kItems
                           : method == MethodId::kKeys ? Part::kKeys
                                                       : Part::kValues);
    case MethodId::kCopy:
      bind("copy", {}, arguments);
      return self;
    default:
      fail(fmt::format("the dict method '{}' is not supported in a chat template", name_of(method)));
  }
}

Value call_sequence_method(Render& render, const Value& self, MethodId method, Arguments& arguments) {
  if (!arguments.keywords.empty()) fail(fmt::format("{}() takes no keyword arguments", name_of(method)));
  if (method == MethodId::kCount) return count_in(render, self, arguments);
  if (method == MethodId::kIndex) return index_in(render, self, arguments);
  if (method == MethodId::kCopy) {
    bind("copy", {}, arguments);
    return self;
  }
  fail(fmt::format("the {} method '{}' is not supported in a chat template", type_name(self), name_of(method)));
}

Value call_loop_method(Render& render, LoopObject& loop, MethodId method, Arguments& arguments) {
  if (!arguments.keywords.empty()) fail(fmt::format("{}() takes no keyword arguments", name_of(method)));
  if (method == MethodId::kCycle) {
    if (arguments.positional.empty()) fail("no items for cycling given");
    return arguments.positional[static_cast<std::size_t>(loop.index0) % arguments.positional.size()];
  }
  return Value::boolean(loop.changed(render, tuple_of(render, arguments.positional)));
}

Value call_cycler_method(CyclerObject& cycler, MethodId method, Arguments& arguments) {
  bind(name_of(method), {}, arguments);
  if (method == MethodId::kReset) {
    cycler.position = 0;
    return Value::none();
  }
  const Value current = cycler.items[cycler.position];
  cycler.position = (cycler.position + 1) % cycler.items.size();
  return current;
}

}  // namespace

MethodId method_named(std::string_view name) {
  static const auto kTable = [] {
    std::unordered_map<std::string_view, MethodId> table;
    for (const MethodEntry& entry : kMethods) table.emplace(entry.name, entry.id);
    return table;
  }();
  const auto found = kTable.find(name);
  return found == kTable.end() ? MethodId::kNone : found->second;
}

bool has_method(const Value& value, MethodId method) {
  static const auto kOwners = [] {
    std::vector<std::uint8_t> owners(256, 0);
    for (const MethodEntry& entry : kMethods) owners[static_cast<std::size_t>(entry.id)] = entry.owners;
    return owners;
  }();
  return (kOwners[static_cast<std::size_t>(method)] & owner_bit(value)) != 0;
}

bool is_mutating(const Value& value, MethodId method) {
  switch (method) {
    case MethodId::kClear:
    case MethodId::kPop:
      return value.is(Kind::kList) || value.is(Kind::kDict);
    case MethodId::kAppend:
    case MethodId::kExtend:
    case MethodId::kInsert:
    case MethodId::kRemove:
    case MethodId::kReverse:
    case MethodId::kSort:
      return value.is(Kind::kList);
    case MethodId::kPopitem:
    case MethodId::kSetdefault:
    case MethodId::kUpdate:
      return value.is(Kind::kDict);
    default:
      return false;
  }
}

Value call_method(Render& render, const Value& self, MethodId method, Arguments& arguments) {
  render.step();
  switch (self.kind()) {
    case Kind::kString:
      return call_string_method(render, self, method, arguments);
    case Kind::kDict:
      return call_dict_method(render, self, method, arguments);
    case Kind::kList:
    case Kind::kTuple:
      return call_sequence_method(render, self, method, arguments);
    case Kind::kLoop:
      return call_loop_method(render, self.as<LoopObject>(), method, arguments);
    case Kind::kCycler:
      return call_cycler_method(self.as<CyclerObject>(), method, arguments);
    case Kind::kFloat:
      bind("is_integer", {}, arguments);
      return Value::boolean(std::floor(self.as_number()) == self.as_number());
    default:
      fail(fmt::format("'{}' has no method '{}'", type_name(self), name_of(method)));
  }
}

}  // namespace qlora::jinja
