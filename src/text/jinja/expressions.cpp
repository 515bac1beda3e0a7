// Evaluating expressions.
#include <fmt/format.h>

#include "qlora/text/jinja/runtime.h"

namespace qlora::jinja {

void Expression::print(Render& render) const {
  const Value value = evaluate(render);
  render.write_value(value);
}

Value ConstantExpression::evaluate(Render&) const {
  return value;
}

Value NameExpression::evaluate(Render& render) const {
  const Value& value = render.variable(slot);
  return value.is(Kind::kMissing) ? Value::undefined(Absence::kVariable, name) : value;
}

Value NamespaceReference::evaluate(Render&) const {
  fail("a namespace reference has no value");
}

Value SequenceExpression::evaluate(Render& render) const {
  std::vector<Value> values;
  values.reserve(items.size());
  for (const auto& item : items) values.push_back(item->evaluate(render));
  render.at = at;
  return kind == Kind::kList ? list_of(render, std::move(values)) : tuple_of(render, std::move(values));
}

Value DictExpression::evaluate(Render& render) const {
  DictBuilder builder(render);
  for (const auto& [key, value] : items) {
    Value name = key->evaluate(render);
    Value content = value->evaluate(render);
    render.at = at;
    builder.set(std::move(name), std::move(content));
  }
  return builder.finish();
}

Value AttributeExpression::evaluate(Render& render) const {
  const Value owner = object->evaluate(render);
  render.at = at;
  return attribute(render, owner, name, method);
}

Value ItemExpression::evaluate(Render& render) const {
  const Value owner = object->evaluate(render);
  const Value key = index->evaluate(render);
  render.at = at;
  Value found;
  if (owner.is(Kind::kDict) && key.is_string() && owner.find(key.text(), found)) return found;
  return item(render, owner, key);
}

Value SliceExpression::evaluate(Render& render) const {
  const Value owner = object->evaluate(render);
  const auto bound = [&](const ExpressionPtr& expression) {
    return expression ? expression->evaluate(render) : Value::none();
  };
  const Value from = bound(start), to = bound(stop), by = bound(step);
  render.at = at;
  return slice(render, owner, from, to, by);
}

Value CallExpression::evaluate(Render& render) const {
  if (method) {
    const Value self = method->object->evaluate(render);
    if (has_method(self, method->method) && !is_mutating(self, method->method)) {
      Arguments values = render.gather(arguments);
      render.at = at;
      return call_method(render, self, method->method, values);
    }
    render.at = method->at;
    const Value function = attribute(render, self, method->name, method->method);
    Arguments values = render.gather(arguments);
    render.at = at;
    return render.call(function, values);
  }
  const Value function = callee->evaluate(render);
  Arguments values = render.gather(arguments);
  render.at = at;
  return render.call(function, values);
}

void CallExpression::print(Render& render) const {
  if (!by_name) return Expression::print(render);
  const Value function = callee->evaluate(render);
  Arguments values = render.gather(arguments);
  render.at = at;
  if (function.is(Kind::kMacro)) {
    render.run_macro(function.as<MacroObject>(), values);
  } else {
    render.write_value(render.call(function, values));
  }
}

Value FilterExpression::evaluate(Render& render) const {
  return apply(render, subject->evaluate(render));
}

// `value` goes through the innermost filter first: in `filter` blocks that one has no subject.
Value FilterExpression::apply(Render& render, const Value& value) const {
  const auto* inner = subject ? dynamic_cast<const FilterExpression*>(subject.get()) : nullptr;
  const bool in_block = inner && [&] {
    while (inner->subject) {
      const auto* next = dynamic_cast<const FilterExpression*>(inner->subject.get());
      if (!next) return false;
      inner = next;
    }
    return true;
  }();
  const Value input = in_block ? static_cast<const FilterExpression&>(*subject).apply(render, value) : value;
  Arguments values = render.gather(arguments);
  render.at = at;
  if (!spec) fail(fmt::format("no filter named '{}'", name));
  return apply_filter(render, *spec, input, values);
}

Value TestExpression::evaluate(Render& render) const {
  const Value value = subject->evaluate(render);
  Arguments values = render.gather(arguments);
  render.at = at;
  if (!spec) fail(fmt::format("no test named '{}'", name));
  return Value::boolean(apply_test(render, *spec, value, values));
}

Value UnaryExpression::evaluate(Render& render) const {
  const Value value = operand->evaluate(render);
  if (operation == UnaryOperator::kNot) return Value::boolean(!value.truthy());
  render.at = at;
  if (value.is_undefined()) fail_undefined(value);
  const bool minus = operation == UnaryOperator::kMinus;
  if (value.is(Kind::kFloat)) return Value::number(minus ? -value.as_number() : value.as_number());
  if (!value.is_integral()) {
    fail(fmt::format("bad operand type for unary {}: '{}'", minus ? '-' : '+', type_name(value)));
  }
  return minus ? subtract(Value::integer(0), value) : Value::integer(value.as_integer());
}

Value BinaryExpression::evaluate(Render& render) const {
  const Value a = left->evaluate(render);
  const Value b = right->evaluate(render);
  render.at = at;
  switch (operation) {
    case BinaryOperator::kAdd:
      return add(render, a, b);
    case BinaryOperator::kSubtract:
      return subtract(a, b);
    case BinaryOperator::kMultiply:
      return multiply(render, a, b);
    case BinaryOperator::kDivide:
      return divide(a, b);
    case BinaryOperator::kFloorDivide:
      return floor_divide(a, b);
    case BinaryOperator::kModulo:
      return modulo(render, a, b);
    case BinaryOperator::kPower:
      return power(a, b);
  }
  return {};
}

std::size_t SumExpression::append_strings(Render& render, std::string& out, Value& next) const {
  for (std::size_t i = 0; i < operands.size(); ++i) {
    next = operands[i]->evaluate(render);
    if (!next.is_string() || next.markup()) return i;
    render.bytes(next.text().size());
    out += next.text();
  }
  return operands.size();
}

// left + next + the operands behind `index`.
Value SumExpression::finish(Render& render, Value left, Value next, std::size_t index) const {
  render.at = at;
  if (index > 0) next = add(render, left, next);
  for (std::size_t i = index + 1; i < operands.size(); ++i) {
    const Value right = operands[i]->evaluate(render);
    render.at = at;
    next = add(render, next, right);
  }
  return next;
}

Value SumExpression::evaluate(Render& render) const {
  std::string text;
  Value next;
  const std::size_t done = append_strings(render, text, next);
  if (done == operands.size()) return Value::string(render, std::move(text));
  return finish(render, Value::string(render, std::move(text)), std::move(next), done);
}

void SumExpression::print(Render& render) const {
  std::string& out = render.output();
  const std::size_t start = out.size();
  Value next;
  const std::size_t done = append_strings(render, out, next);
  if (done < operands.size()) {
    Value left = Value::string(render, out.substr(start));
    out.resize(start);
    render.write_value(finish(render, std::move(left), std::move(next), done));
  }
  render.check_output();
}

Value ConcatExpression::evaluate(Render& render) const {
  std::string text;
  for (const auto& operand : operands) append_str(render, text, operand->evaluate(render));
  return Value::string(render, std::move(text));
}

void ConcatExpression::print(Render& render) const {
  std::vector<Value> values;
  for (const auto& operand : operands) values.push_back(operand->evaluate(render));
  for (const Value& value : values) render.write_value(value);
}

Value CompareExpression::evaluate(Render& render) const {
  Value left = first->evaluate(render);
  for (const auto& [operation, expression] : rest) {
    Value right = expression->evaluate(render);
    render.at = at;
    bool holds = false;
    switch (operation) {
      case ComparisonOperator::kEqual:
        holds = equal(render, left, right);
        break;
      case ComparisonOperator::kNotEqual:
        holds = !equal(render, left, right);
        break;
      case ComparisonOperator::kLess:
        holds = compare(render, left, right, "<") < 0;
        break;
      case ComparisonOperator::kLessEqual:
        holds = compare(render, left, right, "<=") <= 0;
        break;
      case ComparisonOperator::kGreater:
        holds = compare(render, left, right, ">") > 0;
        break;
      case ComparisonOperator::kGreaterEqual:
        holds = compare(render, left, right, ">=") >= 0;
        break;
      case ComparisonOperator::kIn:
        holds = contains(render, right, left);
        break;
      case ComparisonOperator::kNotIn:
        holds = !contains(render, right, left);
        break;
    }
    if (!holds) return Value::boolean(false);
    left = std::move(right);
  }
  return Value::boolean(true);
}

Value LogicExpression::evaluate(Render& render) const {
  Value value = left->evaluate(render);
  return value.truthy() == is_and ? right->evaluate(render) : value;
}

Value ConditionalExpression::evaluate(Render& render) const {
  if (condition->evaluate(render).truthy()) return then->evaluate(render);
  if (otherwise) return otherwise->evaluate(render);
  return Value::undefined(Absence::kHint,
                          "the inline if-expression evaluated to false and no else section was defined");
}

void ConditionalExpression::print(Render& render) const {
  if (condition->evaluate(render).truthy()) {
    then->print(render);
  } else if (otherwise) {
    otherwise->print(render);
  }
}

// --- children ---

using Visit = std::function<void(Expression&)>;

namespace {
void visit_all(const Expressions& expressions, const Visit& visit) {
  for (const auto& expression : expressions) visit(*expression);
}
void visit_if(const ExpressionPtr& expression, const Visit& visit) {
  if (expression) visit(*expression);
}
}  // namespace

void ArgumentList::each_child(const Visit& visit) {
  visit_all(positional, visit);
  for (const auto& [name, value] : keywords) visit(*value);
  visit_if(star, visit);
  visit_if(double_star, visit);
}

void SequenceExpression::each_child(const Visit& visit) {
  visit_all(items, visit);
}

void DictExpression::each_child(const Visit& visit) {
  for (const auto& [key, value] : items) {
    visit(*key);
    visit(*value);
  }
}

void AttributeExpression::each_child(const Visit& visit) {
  visit(*object);
}

void ItemExpression::each_child(const Visit& visit) {
  visit(*object);
  visit(*index);
}

void SliceExpression::each_child(const Visit& visit) {
  visit(*object);
  visit_if(start, visit);
  visit_if(stop, visit);
  visit_if(step, visit);
}

void CallExpression::each_child(const Visit& visit) {
  visit(*callee);
  arguments.each_child(visit);
}

void FilterExpression::each_child(const Visit& visit) {
  visit_if(subject, visit);
  arguments.each_child(visit);
}

void TestExpression::each_child(const Visit& visit) {
  visit(*subject);
  arguments.each_child(visit);
}

void UnaryExpression::each_child(const Visit& visit) {
  visit(*operand);
}

void BinaryExpression::each_child(const Visit& visit) {
  visit(*left);
  visit(*right);
}

void SumExpression::each_child(const Visit& visit) {
  visit_all(operands, visit);
}

void ConcatExpression::each_child(const Visit& visit) {
  visit_all(operands, visit);
}

void CompareExpression::each_child(const Visit& visit) {
  visit(*first);
  for (const auto& [operation, value] : rest) visit(*value);
}

void LogicExpression::each_child(const Visit& visit) {
  visit(*left);
  visit(*right);
}

void ConditionalExpression::each_child(const Visit& visit) {
  visit(*condition);
  visit(*then);
  visit_if(otherwise, visit);
}

}  // namespace qlora::jinja
