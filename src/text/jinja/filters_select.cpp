// Filters that apply others: map, select and their kin; default and attr.
#include <fmt/format.h>

#include "qlora/text/jinja/lookup.h"
#include "qlora/text/jinja/unicode.h"

namespace qlora::jinja {

AttributePath::AttributePath(Render& render, const Value& attribute) {
  if (attribute.is(Kind::kMissing) || attribute.is(Kind::kNone)) return;
  if (!attribute.is_string()) {
    parts_.push_back(attribute);
    return;
  }
  std::string_view rest = render.keep(attribute.text());
  while (true) {
    const std::size_t dot = rest.find('.');
    const std::string_view part = rest.substr(0, dot);
    std::int64_t index = 0;
    const bool digits = !part.empty() && part.find_first_not_of("0123456789") == std::string_view::npos;
    parts_.push_back(digits && parse_integer(part, 10, index) ? Value::integer(index) : Value::view(part));
    if (dot == std::string_view::npos) return;
    rest.remove_prefix(dot + 1);
  }
}

Value AttributePath::get(Render& render, Value value, const Value& fallback) const {
  for (const Value& part : parts_) {
    value = item(render, value, part);
    if (value.is_undefined() && !fallback.is(Kind::kMissing)) value = fallback;
  }
  return value;
}

Value ignoring_case(Render& render, const Value& value) {
  return value.is_string() ? Value::string(render, unicode::lower(value.text())) : value;
}

namespace {

// Applies what `map` was given to one item.
class Mapping {
 public:
  Mapping(Render& render, const Arguments& arguments) : arguments_(arguments) {
    if (arguments.positional.empty()) {
      by_attribute(render);
      return;
    }
    const std::string_view name = string_argument(arguments_[0], "map");
    filter_ = find_filter(name);
    if (!filter_) fail(fmt::format("no filter named '{}'", name));
    arguments_.positional.erase(arguments_.positional.begin());
  }

  Value operator()(Render& render, const Value& value) const {
    if (!filter_) return path_.get(render, value, fallback_);
    Arguments arguments = arguments_;
    return apply_filter(render, *filter_, value, arguments);
  }

 private:
  void by_attribute(Render& render) {
    bool found = false;
    for (const auto& [name, value] : arguments_.keywords) {
      if (name.text() == "attribute") {
        path_ = AttributePath(render, value);
        found = true;
      } else if (name.text() == "default") {
        if (!value.is(Kind::kNone)) fallback_ = value;
      } else {
        unexpected_ = name.text();
      }
    }
    if (!found) fail("map requires a filter argument");
    if (!unexpected_.empty()) fail(fmt::format("map: unexpected keyword argument '{}'", unexpected_));
  }

  Arguments arguments_;
  const FilterSpec* filter_ = nullptr;
  AttributePath path_;
  Value fallback_;
  std::string_view unexpected_;
};

// Decides about one item as select, reject, selectattr and rejectattr do.
class Selection {
 public:
  Selection(Render& render, const Arguments& arguments, bool of_attribute, bool keep)
      : arguments_(arguments), keep_(keep) {
    auto& positional = arguments_.positional;
    if (of_attribute) {
      if (positional.empty()) fail("missing parameter for attribute name");
      path_ = AttributePath(render, positional.front());
      positional.erase(positional.begin());
    }
    if (positional.empty()) return;
    const std::string_view name = string_argument(positional.front(), "select");
    test_ = find_test(name);
    if (!test_) fail(fmt::format("no test named '{}'", name));
    positional.erase(positional.begin());
  }

  bool operator()(Render& render, const Value& value) const {
    const Value subject = path_.get(render, value);
    if (!test_) return subject.truthy() == keep_;
    Arguments arguments = arguments_;
    return apply_test(render, *test_, subject, arguments) == keep_;
  }

 private:
  Arguments arguments_;
  bool keep_;
  AttributePath path_;
  const TestSpec* test_ = nullptr;
};

// As in jinja2, nothing is looked at before the first item is asked for, and a false value has no items.
template <class Worker>
struct Lazy {
  std::unique_ptr<Worker> worker;
  Cursor cursor;
};

Value map(Render& render, const Value& value, Arguments& arguments) {
  auto state = std::make_shared<Lazy<Mapping>>();
  return make_generator(value, [&render, value, arguments, state](Value& out) {
    if (!value.truthy()) return false;
    if (!state->worker) {
      state->worker = std::make_unique<Mapping>(render, arguments);
      state->cursor = Cursor(render, value);
    }
    Value item;
    if (!state->cursor.next(item)) return false;
    out = (*state->worker)(render, item);
    return true;
  });
}

template <bool kOfAttribute, bool kKeep>
Value select(Render& render, const Value& value, Arguments& arguments) {
  auto state = std::make_shared<Lazy<Selection>>();
  return make_generator(value, [&render, value, arguments, state](Value& out) {
    if (!value.truthy()) return false;
    if (!state->worker) {
      state->worker = std::make_unique<Selection>(render, arguments, kOfAttribute, kKeep);
      state->cursor = Cursor(render, value);
    }
    while (state->cursor.next(out)) {
      if ((*state->worker)(render, out)) return true;
    }
    return false;
  });
}

Value default_value(Render&, const Value& value, Arguments& arguments) {
  const bool missing = value.is_undefined() || (arguments[1].truthy() && !value.truthy());
  if (!missing) return value;
  return arguments.has(0) ? arguments[0] : Value::view("");
}

Value attr(Render& render, const Value& value, Arguments& arguments) {
  const std::string_view name = render.keep(string_argument(arguments[0], "attr"));
  const MethodId method = method_named(name);
  if (value.is(Kind::kDict) && !has_method(value, method) && !name.starts_with("__")) {
    return Value::undefined(Absence::kAttribute, name, Kind::kDict);
  }
  return attribute(render, value, name, method);
}

}  // namespace

std::vector<FilterSpec> selection_filters() {
  return {
      {"map", map, {"*", 0}},
      {"select", select<false, true>, {"*", 0}},
      {"reject", select<false, false>, {"*", 0}},
      {"selectattr", select<true, true>, {"*", 0}},
      {"rejectattr", select<true, false>, {"*", 0}},
      {"default", default_value, {"default_value,boolean", 0}},
      {"d", default_value, {"default_value,boolean", 0}},
      {"attr", attr, {"name", 1}},
  };
}

}  // namespace qlora::jinja
