// Running statements.
#include <memory>

#include <fmt/format.h>

#include "qlora/text/jinja/runtime.h"

namespace qlora::jinja {

Flow DataStatement::execute(Render& render) const {
  render.write(text);
  return Flow::kNormal;
}

Flow PrintStatement::execute(Render& render) const {
  value->print(render);
  return Flow::kNormal;
}

Flow IfStatement::execute(Render& render) const {
  for (const auto& [condition, body] : branches) {
    if (condition->evaluate(render).truthy()) return render.execute(body);
  }
  return render.execute(otherwise);
}

Flow ForStatement::execute(Render& render) const {
  const Value items = iterable->evaluate(render);
  render.at = iterable->at;
  if (!recursive) return run(render, items, 0);
  const CallFrame frame(render, *function, render.environment());
  return run(render, items, 0);
}

Flow ForStatement::run(Render& render, const Value& items, std::int64_t depth0) const {
  const Value source = test ? filtered(render, items) : items;
  bool completed = false;  // one round ran to its end: only then is the else branch left out
  const Flow flow = uses_loop ? run_with_loop(render, source, depth0, completed) : run_plain(render, source, completed);
  render.leave(body_loads);
  if (flow != Flow::kNormal) return flow;
  if (completed || otherwise.empty()) return Flow::kNormal;
  render.enter(else_loads);
  const Flow else_flow = render.execute(otherwise);
  render.leave(else_loads);
  return else_flow;
}

Flow ForStatement::run_plain(Render& render, const Value& items, bool& completed) const {
  Cursor cursor(render, items);
  for (Value item; cursor.next(item);) {
    render.assign(target, std::move(item));
    render.enter(body_loads);
    const Flow flow = render.execute(body);
    if (flow == Flow::kBreak) break;
    if (flow == Flow::kNormal) completed = true;
  }
  return Flow::kNormal;
}

Flow ForStatement::run_with_loop(Render& render, const Value& items, std::int64_t depth0, bool& completed) const {
  auto* loop = render.pin(std::make_unique<LoopObject>(render, *this, items, depth0));
  loop->enclosing = render.environment()->outer;
  const Value self = Value::pinned(Kind::kLoop, loop);
  for (Value item; loop->next(item);) {
    render.assign(target, std::move(item));
    render.variable(loop_slot) = self;
    render.enter(body_loads);
    const Flow flow = render.execute(body);
    if (flow == Flow::kBreak) break;
    if (flow == Flow::kNormal) completed = true;
  }
  loop->clear();
  return Flow::kNormal;
}

// The items that pass the loop's test, one at a time as the loop asks for them.
Value ForStatement::filtered(Render& render, Value items) const {
  Environment* outer = recursive ? render.environment()->outer : render.environment();
  auto environment = std::make_shared<Environment>(outer, test_function->slots);
  auto cursor = std::make_shared<Cursor>(render, items);
  {
    const Within within(render, environment.get());
    render.enter(test_loads);
  }
  return make_generator(items, [this, &render, environment, cursor](Value& item) {
    const Within within(render, environment.get());
    while (cursor->next(item)) {
      render.assign(test_target, item);
      if (test->evaluate(render).truthy()) return true;
    }
    return false;
  });
}

Flow SetStatement::execute(Render& render) const {
  render.assign(target, value->evaluate(render));
  return Flow::kNormal;
}

Flow SetBlockStatement::execute(Render& render) const {
  Capture capture(render);
  render.enter(loads);
  if (const Flow flow = render.execute(body); flow != Flow::kNormal) return flow;
  Value text = capture.take();
  if (filter) text = static_cast<const FilterExpression&>(*filter).apply(render, text);
  render.leave(loads);
  render.assign(target, std::move(text));
  return Flow::kNormal;
}

Flow MacroStatement::execute(Render& render) const {
  render.variable(slot) = render.make_macro(definition);
  return Flow::kNormal;
}

Flow CallBlockStatement::execute(Render& render) const {
  const Value macro = render.make_macro(caller);
  const Value callee = call->callee->evaluate(render);
  Arguments arguments = render.gather(call->arguments);
  render.at = call->at;
  for (const auto& [name, value] : arguments.keywords) {
    if (name.text() == "caller") fail("got multiple values for keyword argument 'caller'");
  }
  arguments.keywords.emplace_back(Value::view("caller"), macro);
  if (callee.is(Kind::kMacro)) {
    render.run_macro(callee.as<MacroObject>(), arguments);
  } else {
    render.write_value(render.call(callee, arguments));
  }
  return Flow::kNormal;
}

Flow GenerationStatement::execute(Render& render) const {
  MacroObject macro;
  macro.definition = &content;
  macro.closure = render.environment();
  Arguments none;
  render.run_macro(macro, none);
  return Flow::kNormal;
}

Flow FilterBlockStatement::execute(Render& render) const {
  Value text;
  render.enter(loads);
  {
    Capture capture(render);
    if (const Flow flow = render.execute(body); flow != Flow::kNormal) return flow;
    text = capture.take();
  }
  render.write_value(static_cast<const FilterExpression&>(*filter).apply(render, text));
  render.leave(loads);
  return Flow::kNormal;
}

Flow WithStatement::execute(Render& render) const {
  // A value sees the variables outside, not those assigned before it.
  std::vector<Value> values;
  for (const auto& [target, value] : assignments) values.push_back(value->evaluate(render));
  for (std::size_t i = 0; i < values.size(); ++i) render.assign(assignments[i].first, std::move(values[i]));
  render.enter(loads);
  const Flow flow = render.execute(body);
  render.leave(loads);
  return flow;
}

Flow JumpStatement::execute(Render&) const {
  return flow;
}

}  // namespace qlora::jinja
