// The scope pass: symbols of every scope, then a slot for every name.
#include "qlora/text/jinja/scope.h"

#include <algorithm>

#include <fmt/format.h>

#include "qlora/text/jinja/library.h"
#include "qlora/text/jinja/parser.h"

namespace qlora::jinja {

Symbols::Symbols(Symbols* parent, FunctionScope* function)
    : parent_(parent), function_(function), slots_(std::make_shared<std::map<std::string, std::uint32_t>>()) {}

std::uint32_t Symbols::define(const std::string& name, Load load) {
  const auto [entry, inserted] = slots_->try_emplace(name, function_->layout->slots);
  if (inserted) ++function_->layout->slots;
  references_[name] = entry->second;
  loads_[entry->second] = std::move(load);
  return entry->second;
}

std::optional<VariableReference> Symbols::find(const std::string& name) const {
  for (const Symbols* scope = this; scope; scope = scope->parent_) {
    const auto entry = scope->references_.find(name);
    if (entry != scope->references_.end()) return VariableReference{scope->function_, entry->second};
  }
  return std::nullopt;
}

void Symbols::load(const std::string& name) {
  if (!find(name)) define(name, {Load::From::kContext, name, {}});
}

void Symbols::store(const std::string& name) {
  stores_.insert(name);
  if (references_.contains(name)) return;
  const auto outer = parent_ ? parent_->find(name) : std::nullopt;
  if (outer) {
    define(name, {Load::From::kOuter, name, *outer});
  } else {
    define(name, {Load::From::kNothing, name, {}});
  }
}

void Symbols::parameter(const std::string& name) {
  stores_.insert(name);
  define(name, {Load::From::kParameter, name, {}});
}

void Symbols::merge(const std::vector<Symbols>& branches) {
  std::set<std::string> stored;
  for (const Symbols& branch : branches) {
    for (const std::string& name : branch.stores_) {
      if (!stores_.contains(name)) stored.insert(name);
    }
  }
  for (const Symbols& branch : branches) {
    for (const auto& [name, index] : branch.references_) references_[name] = index;
    for (const auto& [index, load] : branch.loads_) loads_[index] = load;
    stores_.insert(branch.stores_.begin(), branch.stores_.end());
  }
  for (const std::string& name : stored) {  // set in one branch only: before that it is what it was outside
    const auto outer = parent_ ? parent_->find(name) : std::nullopt;
    loads_[references_.at(name)] =
        outer ? Load{Load::From::kOuter, name, *outer} : Load{Load::From::kContext, name, {}};
  }
}

void declare(Expression& expression, Symbols& symbols) {
  if (const auto* name = dynamic_cast<const NameExpression*>(&expression)) symbols.load(name->name);
  expression.each_child([&](Expression& child) { declare(child, symbols); });
}

void declare(const Target& target, Symbols& symbols, bool as_parameter) {
  if (target.type == Target::Type::kTuple) {
    for (const Target& item : target.items) declare(item, symbols, as_parameter);
  } else if (target.type == Target::Type::kNamespace) {
    symbols.load(target.name);
  } else {
    as_parameter ? symbols.parameter(target.name) : symbols.store(target.name);
  }
}

namespace {

void declare_body(const Body& body, Symbols& symbols) {
  for (const auto& statement : body) statement->declare(symbols);
}

}  // namespace

// --- the resolver ---

Slot Resolver::slot(const Symbols& symbols, const VariableReference& reference) const {
  Slot slot;
  slot.index = reference.index;
  for (const FunctionScope* scope = symbols.function(); scope != reference.function; scope = scope->outer) ++slot.hops;
  return slot;
}

Slot Resolver::slot(const Symbols& symbols, const std::string& name) const {
  return slot(symbols, symbols.find(name).value());
}

std::vector<SlotLoad> Resolver::loads(const Symbols& symbols) {
  std::vector<SlotLoad> loads;
  for (const auto& [index, load] : symbols.loads()) {
    SlotLoad entry;
    entry.index = index;
    if (load.from == Symbols::Load::From::kParameter) continue;
    if (load.from == Symbols::Load::From::kOuter) {
      entry.from = SlotLoad::From::kOuter;
      entry.outer = slot(symbols, load.outer);
    } else if (load.from == Symbols::Load::From::kContext) {
      auto& names = program_.context_names;
      const auto known = std::find(names.begin(), names.end(), load.name);
      entry.from = SlotLoad::From::kContext;
      entry.context = static_cast<std::uint32_t>(known - names.begin());
      if (known == names.end()) names.push_back(load.name);
    }
    loads.push_back(entry);
  }
  return loads;
}

void Resolver::body(const Body& body, const Frame& frame) {
  Frame inner = frame;
  ++inner.depth;
  for (const auto& statement : body) statement->resolve(*this, inner);
}

void Resolver::expression(Expression& expression, const Frame& frame) {
  FunctionLayout& layout = *frame.symbols->function()->layout;
  layout.nesting = std::max(layout.nesting, frame.depth + expression.height);
  names(expression, frame);
}

void Resolver::names(Expression& expression, const Frame& frame) {
  Frame inner = frame;
  if (auto* name = dynamic_cast<NameExpression*>(&expression)) {
    name->slot = slot(*frame.symbols, name->name);
  } else if (dynamic_cast<ConditionalExpression*>(&expression)) {
    inner.soft = true;
  } else if (auto* filter = dynamic_cast<FilterExpression*>(&expression)) {
    filter->spec = find_filter(filter->name);
    if (!filter->spec && !frame.soft)
      throw SyntaxFailure(filter->at, fmt::format("no filter named '{}'", filter->name));
  } else if (auto* test = dynamic_cast<TestExpression*>(&expression)) {
    test->spec = find_test(test->name);
    if (!test->spec && !frame.soft) throw SyntaxFailure(test->at, fmt::format("no test named '{}'", test->name));
  }
  expression.each_child([&](Expression& child) { names(child, inner); });
}

void Resolver::target(Target& target, const Frame& frame) {
  if (target.type == Target::Type::kTuple) {
    for (Target& item : target.items) this->target(item, frame);
  } else {
    target.slot = slot(*frame.symbols, target.name);
  }
}

// --- statements ---

void DataStatement::declare(Symbols&) {}
void DataStatement::resolve(Resolver&, const Frame&) {}
void JumpStatement::declare(Symbols&) {}
void JumpStatement::resolve(Resolver&, const Frame&) {}

void PrintStatement::declare(Symbols& symbols) {
  jinja::declare(*value, symbols);
}
void PrintStatement::resolve(Resolver& resolver, const Frame& frame) {
  resolver.expression(*value, frame);
}

// Branches after the first are nested ifs in jinja2's tree; their conditions are seen by their own branch only.
void IfStatement::declare(Symbols& symbols) {
  jinja::declare(*branches.front().first, symbols);
  std::vector<Symbols> copies;
  copies.push_back(symbols);
  declare_body(branches.front().second, copies.back());
  Symbols elifs = symbols;
  for (std::size_t i = 1; i < branches.size(); ++i) {
    jinja::declare(*branches[i].first, elifs);
    std::vector<Symbols> inner{elifs};
    declare_body(branches[i].second, inner.back());
    elifs.merge(inner);
  }
  copies.push_back(std::move(elifs));
  copies.push_back(symbols);
  declare_body(otherwise, copies.back());
  symbols.merge(copies);
}

void IfStatement::resolve(Resolver& resolver, const Frame& frame) {
  Frame inner = frame;
  inner.soft = true;
  for (auto& [condition, body] : branches) {
    resolver.expression(*condition, inner);
    resolver.body(body, inner);
  }
  resolver.body(otherwise, inner);
}

void ForStatement::declare(Symbols& symbols) {
  jinja::declare(*iterable, symbols);
}

void ForStatement::resolve(Resolver& resolver, const Frame& frame) {
  resolver.expression(*iterable, frame);
  FunctionScope own{frame.symbols->function(), nullptr};
  if (recursive) {
    function = std::make_shared<FunctionLayout>();
    own.layout = function.get();
  }
  FunctionScope* scope = recursive ? &own : frame.symbols->function();

  Symbols inner(frame.symbols, scope);
  if (uses_loop) inner.parameter("loop");
  jinja::declare(target, inner, true);
  declare_body(body, inner);
  const Frame inner_frame{&inner, false, recursive ? 1 : frame.depth};
  if (uses_loop) loop_slot = resolver.slot(inner, "loop");
  resolver.target(target, inner_frame);
  resolver.body(body, inner_frame);
  body_loads = resolver.loads(inner);

  Symbols last(frame.symbols, scope);
  declare_body(otherwise, last);
  resolver.body(otherwise, {&last, false, inner_frame.depth});
  else_loads = resolver.loads(last);

  if (!test) return;
  test_function = std::make_shared<FunctionLayout>();
  FunctionScope filter{frame.symbols->function(), test_function.get()};
  Symbols tested(frame.symbols, &filter);
  jinja::declare(test_target, tested, true);
  jinja::declare(*test, tested);
  const Frame test_frame{&tested, false, 1};
  resolver.target(test_target, test_frame);
  resolver.expression(*test, test_frame);
  test_loads = resolver.loads(tested);
}

void SetStatement::declare(Symbols& symbols) {
  jinja::declare(*value, symbols);
  jinja::declare(target, symbols, false);
}

void SetStatement::resolve(Resolver& resolver, const Frame& frame) {
  resolver.expression(*value, frame);
  resolver.target(target, frame);
}

void SetBlockStatement::declare(Symbols& symbols) {
  jinja::declare(target, symbols, false);
}

void SetBlockStatement::resolve(Resolver& resolver, const Frame& frame) {
  Symbols inner(frame.symbols, frame.symbols->function());
  declare_body(body, inner);
  if (filter) jinja::declare(*filter, inner);
  const Frame inner_frame{&inner, false, frame.depth};
  resolver.body(body, inner_frame);
  if (filter) resolver.expression(*filter, inner_frame);
  resolver.target(target, frame);
  loads = resolver.loads(inner);
}

void MacroDefinition::declare(Symbols& symbols) {
  for (const std::string& parameter : parameters) symbols.parameter(parameter);
  for (const auto& value : defaults) jinja::declare(*value, symbols);
  if (uses_caller) symbols.parameter("caller");
  if (uses_kwargs) symbols.parameter("kwargs");
  if (uses_varargs) symbols.parameter("varargs");
  declare_body(body, symbols);
}

void MacroDefinition::resolve(Resolver& resolver, const Frame& frame) {
  function = std::make_shared<FunctionLayout>();
  FunctionScope scope{frame.symbols->function(), function.get()};
  Symbols inner(frame.symbols, &scope);
  declare(inner);
  const Frame inner_frame{&inner, false, 1};
  for (const std::string& parameter : parameters) parameter_slots.push_back(resolver.slot(inner, parameter));
  if (uses_caller) caller_slot = resolver.slot(inner, "caller");
  if (uses_kwargs) kwargs_slot = resolver.slot(inner, "kwargs");
  if (uses_varargs) varargs_slot = resolver.slot(inner, "varargs");
  for (const auto& value : defaults) resolver.expression(*value, inner_frame);
  resolver.body(body, inner_frame);
  loads = resolver.loads(inner);
}

void MacroStatement::declare(Symbols& symbols) {
  symbols.store(definition.name);
}

void MacroStatement::resolve(Resolver& resolver, const Frame& frame) {
  definition.resolve(resolver, frame);
  slot = resolver.slot(*frame.symbols, definition.name);
}

void CallBlockStatement::declare(Symbols& symbols) {
  jinja::declare(*call, symbols);
}

void CallBlockStatement::resolve(Resolver& resolver, const Frame& frame) {
  caller.resolve(resolver, frame);
  resolver.expression(*call, frame);
}

void GenerationStatement::declare(Symbols&) {}
void GenerationStatement::resolve(Resolver& resolver, const Frame& frame) {
  content.resolve(resolver, frame);
}

void FilterBlockStatement::declare(Symbols& symbols) {
  jinja::declare(*filter, symbols);
}

void FilterBlockStatement::resolve(Resolver& resolver, const Frame& frame) {
  Symbols inner(frame.symbols, frame.symbols->function());
  declare_body(body, inner);
  jinja::declare(*filter, inner);
  const Frame inner_frame{&inner, false, frame.depth};
  resolver.body(body, inner_frame);
  resolver.expression(*filter, inner_frame);
  loads = resolver.loads(inner);
}

void WithStatement::declare(Symbols& symbols) {
  for (const auto& [target, value] : assignments) jinja::declare(*value, symbols);
}

void WithStatement::resolve(Resolver& resolver, const Frame& frame) {
  Symbols inner(frame.symbols, frame.symbols->function());
  for (const auto& [target, value] : assignments) jinja::declare(target, inner, true);
  declare_body(body, inner);
  const Frame inner_frame{&inner, false, frame.depth};
  for (auto& [target, value] : assignments) {
    resolver.expression(*value, frame);
    resolver.target(target, inner_frame);
  }
  resolver.body(body, inner_frame);
  loads = resolver.loads(inner);
}

void resolve_scopes(Program& program) {
  Resolver resolver(program);
  FunctionScope root{nullptr, &program.function};
  Symbols symbols(nullptr, &root);
  declare_body(program.body, symbols);
  resolver.body(program.body, {&symbols, false, 1});
  program.loads = resolver.loads(symbols);
}

}  // namespace qlora::jinja
