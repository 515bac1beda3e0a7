// Filters over sequences.
#include <algorithm>
#include <unordered_set>

#include <fmt/format.h>

#include "qlora/text/jinja/lookup.h"
#include "qlora/text/jinja/unicode.h"

namespace qlora::jinja {
namespace {

Value length(Render& render, const Value& value, Arguments&) {
  if (value.is(Kind::kLoop)) return Value::integer(value.as<LoopObject>().length());
  if (!is_iterable(value) || value.is(Kind::kGenerator)) {
    fail(fmt::format("object of type '{}' has no len()", type_name(value)));
  }
  render.step(value.is_string() ? static_cast<std::int64_t>(value.text().size() / 64) : 1);
  return Value::integer(Cursor(render, value).remaining());
}

Value first(Render& render, const Value& value, Arguments&) {
  Cursor cursor(render, value);
  Value item;
  return cursor.next(item) ? item : Value::undefined(Absence::kHint, "No first item, sequence was empty.");
}

Value last(Render& render, const Value& value, Arguments&) {
  if (value.is(Kind::kGenerator)) fail("'generator' object is not reversible");
  if (value.is_sequence() && value.size() > 0) return value.item(value.size() - 1);
  std::vector<Value> items = to_vector(render, value);
  return items.empty() ? Value::undefined(Absence::kHint, "No last item, sequence was empty.") : items.back();
}

Value list(Render& render, const Value& value, Arguments&) {
  return list_of(render, to_vector(render, value));
}

Value join(Render& render, const Value& value, Arguments& arguments) {
  const std::string separator = arguments.has(0) ? to_str(render, arguments[0]) : "";
  const AttributePath path(render, arguments[1]);
  std::string out;
  Cursor cursor(render, value);
  bool first_item = true;
  for (Value item; cursor.next(item); first_item = false) {
    const std::size_t before = out.size();
    if (!first_item) out += separator;
    append_str(render, out, path.get(render, std::move(item)));
    render.bytes(out.size() - before);
  }
  return Value::string(render, std::move(out));
}

Value generator_of(Render& render, std::vector<Value> items) {
  const Value source = list_of(render, std::move(items));
  auto cursor = std::make_shared<Cursor>(render, source);
  return make_generator(source, [cursor](Value& item) { return cursor->next(item); });
}

Value reverse(Render& render, const Value& value, Arguments&) {
  if (value.is_string()) {
    return slice_of_string(render, value, Value::none(), Value::none(), Value::integer(-1));
  }
  std::vector<Value> items = to_vector(render, value);
  std::reverse(items.begin(), items.end());
  return value.is(Kind::kGenerator) ? list_of(render, std::move(items)) : generator_of(render, std::move(items));
}

// Sorts by keys, stably; equal keys keep their order in reverse too.
std::vector<Value> sorted(Render& render, const std::vector<Value>& items, const std::vector<Value>& keys,
                          bool descending) {
  std::vector<std::size_t> order(items.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return descending ? compare(render, keys[b], keys[a], "<") < 0 : compare(render, keys[a], keys[b], "<") < 0;
  });
  std::vector<Value> result;
  result.reserve(items.size());
  for (const std::size_t i : order) result.push_back(items[i]);
  return result;
}

std::vector<AttributePath> paths_of(Render& render, const Value& attribute) {
  if (!attribute.is_string()) return {AttributePath(render, attribute)};
  std::vector<AttributePath> paths;
  std::string_view rest = attribute.text();
  while (true) {
    const std::size_t comma = rest.find(',');
    paths.emplace_back(render, Value::view(rest.substr(0, comma)));
    if (comma == std::string_view::npos) return paths;
    rest.remove_prefix(comma + 1);
  }
}

Value sort(Render& render, const Value& value, Arguments& arguments) {
  const bool case_sensitive = arguments[1].truthy();
  const std::vector<AttributePath> paths = paths_of(render, arguments[2]);
  const std::vector<Value> items = to_vector(render, value);
  std::vector<Value> keys;
  for (const Value& entry : items) {
    std::vector<Value> key;
    for (const AttributePath& path : paths) {
      const Value part = path.get(render, entry);
      key.push_back(case_sensitive ? part : ignoring_case(render, part));
    }
    keys.push_back(list_of(render, std::move(key)));
  }
  return list_of(render, sorted(render, items, keys, arguments[0].truthy()));
}

Value unique(Render& render, const Value& value, Arguments& arguments) {
  struct State {
    Cursor cursor;
    bool case_sensitive;
    AttributePath path;
    std::unordered_set<std::string> seen;
  };
  auto state = std::make_shared<State>(
      State{Cursor(render, value), arguments[0].truthy(), AttributePath(render, arguments[1]), {}});
  return make_generator(value, [&render, state](Value& item) {
    while (state->cursor.next(item)) {
      const Value part = state->path.get(render, item);
      std::string key;
      append_hash_key(key, state->case_sensitive ? part : ignoring_case(render, part));
      render.bytes(key.size());
      if (state->seen.insert(std::move(key)).second) return true;
    }
    return false;
  });
}

template <bool kMaximum>
Value extreme(Render& render, const Value& value, Arguments& arguments) {
  const bool case_sensitive = arguments[0].truthy();
  const AttributePath path(render, arguments[1]);
  Cursor cursor(render, value);
  Value best, best_key;
  for (Value item; cursor.next(item);) {
    Value key = path.get(render, item);
    if (!case_sensitive) key = ignoring_case(render, key);
    const bool better = best.is(Kind::kMissing) ||
                        (kMaximum ? compare(render, key, best_key, ">") > 0 : compare(render, key, best_key, "<") < 0);
    if (!better) continue;
    best = item;
    best_key = key;
  }
  return best.is(Kind::kMissing) ? Value::undefined(Absence::kHint, "No aggregated item, sequence was empty.") : best;
}

Value sum(Render& render, const Value& value, Arguments& arguments) {
  const AttributePath path(render, arguments[0]);
  Value total = arguments.has(1) ? arguments[1] : Value::integer(0);
  if (total.is_string()) fail("sum() can't sum strings");
  Cursor cursor(render, value);
  for (Value item; cursor.next(item);) total = add(render, total, path.get(render, std::move(item)));
  return total;
}

Value batch(Render& render, const Value& value, Arguments& arguments) {
  const std::int64_t size = integer_argument(arguments[0], "batch");
  const Value fill = arguments.has(1) ? arguments[1] : Value::none();
  std::vector<Value> batches, current;
  for (Value& item : to_vector(render, value)) {
    if (static_cast<std::int64_t>(current.size()) == size) {
      batches.push_back(list_of(render, std::move(current)));
      current = {};
    }
    current.push_back(std::move(item));
  }
  if (!current.empty()) {
    while (!fill.is(Kind::kNone) && static_cast<std::int64_t>(current.size()) < size) {
      render.step();
      current.push_back(fill);
    }
    batches.push_back(list_of(render, std::move(current)));
  }
  return generator_of(render, std::move(batches));
}

Value slices(Render& render, const Value& value, Arguments& arguments) {
  const std::int64_t count = integer_argument(arguments[0], "slice");
  const bool fill = arguments.has(1) && !arguments[1].is(Kind::kNone);
  const std::vector<Value> items = to_vector(render, value);
  if (count == 0) fail("integer division or modulo by zero");
  const auto size = static_cast<std::int64_t>(items.size());
  std::vector<Value> parts;
  std::int64_t at = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    render.step();
    const bool extra = i < size % count;
    const std::int64_t end = at + size / count + (extra ? 1 : 0);
    std::vector<Value> part(items.begin() + at, items.begin() + end);
    if (fill && !extra) part.push_back(arguments[1]);
    parts.push_back(list_of(render, std::move(part)));
    at = end;
  }
  return generator_of(render, std::move(parts));
}

std::vector<Value> pairs_of(Render& render, const Value& dict) {
  std::vector<Value> pairs;
  for (std::size_t i = 0; i < dict.size(); ++i) {
    render.step();
    pairs.push_back(tuple_of(render, {dict.key_at(i), dict.value_at(i)}));
  }
  return pairs;
}

Value items(Render& render, const Value& value, Arguments&) {
  if (value.is_undefined()) return generator_of(render, {});
  if (!value.is(Kind::kDict)) fail("Can only get item pairs from a mapping.");
  return generator_of(render, pairs_of(render, value));
}

Value dict_sort(Render& render, const Value& value, Arguments& arguments) {
  const std::string_view by = arguments.has(1) ? string_argument(arguments[1], "dictsort") : "key";
  if (by != "key" && by != "value") fail("dictsort: you can only sort by either \"key\" or \"value\"");
  if (value.is_undefined()) fail_undefined(value);
  if (!value.is(Kind::kDict)) fail(fmt::format("'{}' object has no attribute 'items'", type_name(value)));
  const std::vector<Value> pairs = pairs_of(render, value);
  std::vector<Value> keys;
  for (const Value& pair : pairs) {
    const Value key = pair.item(by == "key" ? 0 : 1);
    keys.push_back(arguments[0].truthy() ? key : ignoring_case(render, key));
  }
  return list_of(render, sorted(render, pairs, keys, arguments[2].truthy()));
}

Value group_by(Render& render, const Value& value, Arguments& arguments) {
  const AttributePath path(render, arguments[0]);
  const Value fallback = arguments.has(1) && !arguments[1].is(Kind::kNone) ? arguments[1] : Value();
  const bool case_sensitive = arguments[2].truthy();
  const auto key_of = [&](const Value& item) {
    const Value key = path.get(render, item, fallback);
    return case_sensitive ? key : ignoring_case(render, key);
  };
  const std::vector<Value> entries = to_vector(render, value);
  std::vector<Value> keys;
  for (const Value& entry : entries) keys.push_back(key_of(entry));
  std::vector<Value> groups;
  const std::vector<Value> ordered = sorted(render, entries, keys, false);
  for (std::size_t begin = 0; begin < ordered.size();) {
    const Value key = key_of(ordered[begin]);
    std::size_t end = begin + 1;
    while (end < ordered.size() && equal(render, key_of(ordered[end]), key)) ++end;
    std::vector<Value> members(ordered.begin() + static_cast<std::ptrdiff_t>(begin),
                               ordered.begin() + static_cast<std::ptrdiff_t>(end));
    const Value group =
        tuple_of(render, {path.get(render, ordered[begin], fallback), list_of(render, std::move(members))});
    group.as<ListObject>().group = true;
    groups.push_back(group);
    begin = end;
  }
  return list_of(render, std::move(groups));
}

}  // namespace

std::vector<FilterSpec> sequence_filters() {
  return {
      {"length", length, {}},
      {"count", length, {}},
      {"first", first, {}},
      {"last", last, {}},
      {"list", list, {}},
      {"join", join, {"d,attribute", 0}},
      {"reverse", reverse, {}},
      {"sort", sort, {"reverse,case_sensitive,attribute", 0}},
      {"unique", unique, {"case_sensitive,attribute", 0}},
      {"min", extreme<false>, {"case_sensitive,attribute", 0}},
      {"max", extreme<true>, {"case_sensitive,attribute", 0}},
      {"sum", sum, {"attribute,start", 0}},
      {"batch", batch, {"linecount,fill_with", 1}},
      {"slice", slices, {"slices,fill_with", 1}},
      {"items", items, {}},
      {"dictsort", dict_sort, {"case_sensitive,by,reverse", 0}},
      {"groupby", group_by, {"attribute,default,case_sensitive", 1}},
  };
}

}  // namespace qlora::jinja
