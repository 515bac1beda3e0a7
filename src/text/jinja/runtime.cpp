// Variables, calls and loops of a rendering.
#include "qlora/text/jinja/runtime.h"

#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace qlora::jinja {

Render::Render(const Program& program, const Json& variables)
    : program_(program), variables_(variables), root_(nullptr, program.function.slots) {
  for (const std::string& name : program.context_names) {
    const auto found = variables_.find(name);
    context_.push_back(found != variables_.end() ? Value::of(*found) : global_named(name));
  }
}

// Values never own namespaces, macros or environments, so emptying these one by one ends every chain and cycle.
Render::~Render() {
  root_.slots.clear();
  for (auto& environment : environments_) environment->slots.clear();
  for (auto& object : pinned_) object->clear();
}

void Render::fail_output() {
  fail(fmt::format("the template printed more than {} MiB", kOutput >> 20));
}

std::string Render::run() {
  constexpr std::size_t kUsual = 2048;
  text_.reserve(kUsual);
  enter(program_.loads);
  execute(program_.body);
  return std::move(text_);
}

void Render::write_value(const Value& value) {
  append_str(*this, *output_, value);
  check_output();
}

void Render::capture_environment() {
  for (Environment* environment = environment_; environment && !environment->captured;
       environment = environment->outer) {
    environment->captured = true;
  }
}

void Render::enter(const std::vector<SlotLoad>& loads) {
  for (const SlotLoad& load : loads) {
    Value& slot = environment_->slots[load.index];
    if (load.from == SlotLoad::From::kContext) {
      slot = Value(context_[load.context]);
    } else if (load.from == SlotLoad::From::kOuter) {
      slot = Value(variable(load.outer));
    } else {
      slot = Value();
    }
  }
}

void Render::leave(const std::vector<SlotLoad>& loads) {
  for (const SlotLoad& load : loads) environment_->slots[load.index] = Value();
}

std::string_view Render::keep(std::string_view text) {
  bytes(text.size() + sizeof(std::string));
  texts_.push_back(std::make_unique<std::string>(text));
  return *texts_.back();
}

Flow Render::execute(const Body& body) {
  for (const auto& statement : body) {
    step();
    if (const Flow flow = statement->execute(*this); flow != Flow::kNormal) return flow;
  }
  return Flow::kNormal;
}

void Render::assign(const Target& target, Value value) {
  if (target.type == Target::Type::kName) {
    variable(target.slot) = std::move(value);
    return;
  }
  if (target.type == Target::Type::kNamespace) {
    const Value& space = variable(target.slot);
    at = target.at;
    if (!space.is(Kind::kNamespace)) fail("cannot assign attribute on non-namespace object");
    if (target.attribute.starts_with("_")) fail("a namespace cannot hold attributes that start with an underscore");
    bytes(sizeof(Value));
    space.as<NamespaceObject>().set(target.attribute, std::move(value));
    return;
  }
  at = target.at;
  if (value.is_undefined() || !is_iterable(value)) {
    if (!value.is_undefined()) fail(fmt::format("cannot unpack non-iterable {} object", type_name(value)));
  }
  Cursor cursor(*this, value);
  Value item;
  for (const Target& part : target.items) {
    if (!cursor.next(item)) fail(fmt::format("not enough values to unpack (expected {})", target.items.size()));
    assign(part, std::move(item));
  }
  if (cursor.next(item)) fail(fmt::format("too many values to unpack (expected {})", target.items.size()));
}

Arguments Render::gather(const ArgumentList& list) {
  Arguments arguments;
  arguments.positional.reserve(list.positional.size());
  for (const auto& expression : list.positional) arguments.positional.push_back(expression->evaluate(*this));
  for (const auto& [name, expression] : list.keywords) {
    arguments.keywords.emplace_back(Value::view(name), expression->evaluate(*this));
  }
  if (list.star) {
    for (Value& value : to_vector(*this, list.star->evaluate(*this))) arguments.positional.push_back(std::move(value));
  }
  if (list.double_star) {
    const Value extra = list.double_star->evaluate(*this);
    if (!extra.is(Kind::kDict)) fail(fmt::format("argument after ** must be a mapping, not {}", type_name(extra)));
    for (std::size_t i = 0; i < extra.size(); ++i) {
      const Value key = extra.key_at(i);
      if (!key.is_string()) fail("keywords must be strings");
      for (const auto& [name, value] : arguments.keywords) {
        if (name.text() == key.text()) fail(fmt::format("got multiple values for keyword argument '{}'", key.text()));
      }
      step(static_cast<std::int64_t>(1 + arguments.keywords.size() / 16));
      arguments.keywords.emplace_back(key, extra.value_at(i));
    }
  }
  return arguments;
}

Value Render::call(const Value& callee, Arguments& arguments) {
  switch (callee.kind()) {
    case Kind::kMacro: {
      Capture capture(*this);
      run_macro(callee.as<MacroObject>(), arguments);
      return capture.take();
    }
    case Kind::kMethod: {
      const auto& method = callee.as<MethodObject>();
      return call_method(*this, method.self, method.method, arguments);
    }
    case Kind::kFunction:
      return call_function(*this, callee, arguments);
    case Kind::kLoop:
      return call_loop(callee.as<LoopObject>(), arguments);
    case Kind::kJoiner: {
      bind("joiner", {}, arguments);
      auto& joiner = callee.as<JoinerObject>();
      return std::exchange(joiner.used, true) ? joiner.separator : Value::view("");
    }
    case Kind::kUndefined:
      fail_undefined(callee);
    default:
      fail(fmt::format("'{}' object is not callable", type_name(callee)));
  }
}

Value Render::make_macro(const MacroDefinition& definition) {
  auto macro = std::make_unique<MacroObject>();
  macro->definition = &definition;
  macro->closure = environment_;
  capture_environment();
  return Value::pinned(Kind::kMacro, pin(std::move(macro)));
}

void Render::run_macro(const MacroObject& macro, Arguments& arguments) {
  const MacroDefinition& definition = *macro.definition;
  const std::uint32_t called_at = at;
  const CallFrame frame(*this, *definition.function, macro.closure);
  bind_macro(macro, arguments);
  enter(definition.loads);
  const std::size_t required = definition.parameters.size() - definition.defaults.size();
  for (std::size_t i = 0; i < definition.parameters.size(); ++i) {
    if (!variable(definition.parameter_slots[i]).is(Kind::kMissing)) continue;
    Value value = i >= required ? definition.defaults[i - required]->evaluate(*this)
                                : Value::undefined(Absence::kVariable, definition.parameters[i]);
    variable(definition.parameter_slots[i]) = std::move(value);
  }
  execute(definition.body);
  at = called_at;
}

namespace {

// Takes the keyword out of the arguments; missing where it was not given.
Value take_keyword(Arguments& arguments, std::string_view name) {
  auto& keywords = arguments.keywords;
  const auto found =
      std::find_if(keywords.begin(), keywords.end(), [&](const auto& entry) { return entry.first.text() == name; });
  if (found == keywords.end()) return {};
  Value value = std::move(found->second);
  keywords.erase(found);
  return value;
}

}  // namespace

// Arguments to variables, in the order in which jinja2's Macro consumes them.
void Render::bind_macro(const MacroObject& macro, Arguments& arguments) {
  const MacroDefinition& definition = *macro.definition;
  const std::size_t count = definition.parameters.size();
  const std::size_t given = std::min(count, arguments.positional.size());
  for (std::size_t i = 0; i < count; ++i) {
    variable(definition.parameter_slots[i]) =
        i < given ? arguments.positional[i] : take_keyword(arguments, definition.parameters[i]);
  }
  if (definition.uses_caller) {
    const Value caller = take_keyword(arguments, "caller");
    variable(definition.caller_slot) = caller.is(Kind::kMissing) || caller.is(Kind::kNone)
                                           ? Value::undefined(Absence::kHint, "No caller defined")
                                           : caller;
  }
  if (definition.uses_kwargs) {
    DictBuilder rest(*this);
    for (auto& [name, value] : arguments.keywords) rest.set(name, value);
    variable(definition.kwargs_slot) = rest.finish();
  } else if (!arguments.keywords.empty()) {
    fail(fmt::format("macro '{}' takes no keyword argument '{}'", definition.name,
                     arguments.keywords.front().first.text()));
  }
  if (definition.uses_varargs) {
    variable(definition.varargs_slot) =
        tuple_of(*this, std::vector<Value>(arguments.positional.begin() + static_cast<std::ptrdiff_t>(given),
                                           arguments.positional.end()));
  } else if (arguments.positional.size() > count) {
    fail(fmt::format("macro '{}' takes not more than {} argument(s)", definition.name, count));
  }
}

Value Render::call_loop(const LoopObject& loop, Arguments& arguments) {
  if (!loop.statement.recursive) fail("the loop must have the 'recursive' marker to be called recursively");
  bind("loop", {"iterable", 1}, arguments);
  const std::uint32_t called_at = at;
  Capture capture(*this);
  const CallFrame frame(*this, *loop.statement.function, loop.enclosing);
  loop.statement.run(*this, arguments[0], loop.depth0 + 1);
  at = called_at;
  return capture.take();
}

CallFrame::CallFrame(Render& render, const FunctionLayout& function, Environment* outer)
    : render_(render), caller_(render.environment_), nesting_(function.nesting) {
  if (render.calls_ + 1 > Render::kMaxCalls || render.nesting_ + nesting_ > Render::kMaxNesting) {
    fail("macros or recursive loops are nested too deeply");
  }
  render.step();
  ++render.calls_;
  render.nesting_ += nesting_;
  environment_ = std::make_unique<Environment>(outer, function.slots);
  render.environment_ = environment_.get();
}

CallFrame::~CallFrame() {
  render_.environment_ = caller_;
  --render_.calls_;
  render_.nesting_ -= nesting_;
  if (environment_->captured) render_.environments_.push_back(std::move(environment_));
}

// --- loops ---

LoopObject::LoopObject(Render& owner, const ForStatement& loop, const Value& items, std::int64_t calls)
    : render(owner), statement(loop), cursor(owner, items), depth0(calls), known_length(cursor.remaining()) {}

bool LoopObject::next(Value& item) {
  if (!peek()) return false;
  before = std::move(current);
  current = std::exchange(after, Value());
  item = current;
  ++index0;
  return true;
}

bool LoopObject::peek() {
  if (!after.is(Kind::kMissing) || cursor.next(after)) return true;
  after = Value();  // a loop's test may have left the last item that it rejected
  return false;
}

std::string LoopObject::description() {
  return fmt::format("<LoopContext {}/{}>", index0 + 1, length());
}

std::string MacroObject::description() {
  return fmt::format("<Macro '{}'>", definition->name);
}

std::int64_t LoopObject::length() {
  if (known_length >= 0) return known_length;
  std::vector<Value> rest;
  const bool peeked = !after.is(Kind::kMissing);
  for (Value item; cursor.next(item);) rest.push_back(item);
  known_length = static_cast<std::int64_t>(rest.size()) + index0 + 1 + (peeked ? 1 : 0);
  cursor = Cursor(render, list_of(render, std::move(rest)));
  return known_length;
}

Value LoopObject::attribute(std::string_view name) {
  if (name == "index") return Value::integer(index0 + 1);
  if (name == "index0") return Value::integer(index0);
  if (name == "first") return Value::boolean(index0 == 0);
  if (name == "last") return Value::boolean(!peek());
  if (name == "length") return Value::integer(length());
  if (name == "revindex") return Value::integer(length() - index0);
  if (name == "revindex0") return Value::integer(length() - index0 - 1);
  if (name == "depth") return Value::integer(depth0 + 1);
  if (name == "depth0") return Value::integer(depth0);
  if (name == "previtem") {
    return index0 == 0 ? Value::undefined(Absence::kHint, "there is no previous item") : before;
  }
  if (name == "nextitem") return peek() ? after : Value::undefined(Absence::kHint, "there is no next item");
  return {};
}

bool LoopObject::changed(Render& owner, Value values) {
  if (!last_changed.is(Kind::kMissing) && equal(owner, last_changed, values)) return false;
  last_changed = std::move(values);
  return true;
}

void LoopObject::clear() {
  before = current = after = last_changed = Value();
  cursor = Cursor();
}

}  // namespace qlora::jinja
