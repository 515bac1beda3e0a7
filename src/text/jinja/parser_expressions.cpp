// Expressions, by precedence from the conditional down to literals.
#include <algorithm>

#include <fmt/format.h>

#include "qlora/text/jinja/library.h"
#include "qlora/text/jinja/parser.h"

namespace qlora::jinja {

template <class T>
std::unique_ptr<T> Parser::start() const {
  auto node = std::make_unique<T>();
  node->at = current().at;
  return node;
}

// Takes the height of a complete node from its children.
ExpressionPtr Parser::finish(ExpressionPtr node) const {
  std::uint32_t height = 0;
  node->each_child([&](Expression& child) { height = std::max(height, child.height); });
  node->height = height + 1;
  if (node->height > kMaxHeight) {
    throw SyntaxFailure(node->at, fmt::format("an expression is nested deeper than {} levels", kMaxHeight));
  }
  return node;
}

ExpressionPtr Parser::parse_expression(bool conditional) {
  if (++depth_ > kMaxNesting) fail_at(current(), fmt::format("nested deeper than {} levels", kMaxNesting));
  ExpressionPtr node = parse_or();
  while (conditional && is_name("if")) {
    auto choice = start<ConditionalExpression>();
    advance();
    choice->then = std::move(node);
    choice->condition = parse_or();
    if (skip_name("else")) choice->otherwise = parse_expression();
    node = finish(std::move(choice));
  }
  --depth_;
  return node;
}

ExpressionPtr Parser::parse_or() {
  ExpressionPtr left = parse_and();
  while (is_name("or")) {
    auto node = start<LogicExpression>();
    advance();
    node->is_and = false;
    node->left = std::move(left);
    node->right = parse_and();
    left = finish(std::move(node));
  }
  return left;
}

ExpressionPtr Parser::parse_and() {
  ExpressionPtr left = parse_not();
  while (is_name("and")) {
    auto node = start<LogicExpression>();
    advance();
    node->left = std::move(left);
    node->right = parse_not();
    left = finish(std::move(node));
  }
  return left;
}

ExpressionPtr Parser::parse_not() {
  if (!is_name("not")) return parse_compare();
  if (++depth_ > kMaxNesting) fail_at(current(), fmt::format("nested deeper than {} levels", kMaxNesting));
  auto node = start<UnaryExpression>();
  advance();
  node->operand = parse_not();
  --depth_;
  return finish(std::move(node));
}

ExpressionPtr Parser::parse_compare() {
  static constexpr std::pair<std::string_view, ComparisonOperator> kOperators[] = {
      {"==", ComparisonOperator::kEqual},  {"!=", ComparisonOperator::kNotEqual},
      {"<", ComparisonOperator::kLess},    {"<=", ComparisonOperator::kLessEqual},
      {">", ComparisonOperator::kGreater}, {">=", ComparisonOperator::kGreaterEqual},
  };
  auto node = start<CompareExpression>();
  node->first = parse_sum();
  while (true) {
    const auto* found = std::find_if(std::begin(kOperators), std::end(kOperators),
                                     [&](const auto& entry) { return is_operator(entry.first); });
    ComparisonOperator operation = ComparisonOperator::kIn;
    if (found != std::end(kOperators)) {
      operation = found->second;
      advance();
    } else if (is_name("not") && look_ahead().type == TokenType::kName && look_ahead().text == "in") {
      operation = ComparisonOperator::kNotIn;
      advance();
      advance();
    } else if (!skip_name("in")) {
      break;
    }
    node->rest.emplace_back(operation, parse_sum());
  }
  if (node->rest.empty()) return std::move(node->first);
  return finish(std::move(node));
}

ExpressionPtr Parser::parse_sum() {
  ExpressionPtr left = parse_concat();
  while (is_operator("+") || is_operator("-")) {
    if (is_operator("-")) {
      auto node = start<BinaryExpression>();
      advance();
      node->operation = BinaryOperator::kSubtract;
      node->left = std::move(left);
      node->right = parse_concat();
      left = finish(std::move(node));
      continue;
    }
    auto node = start<SumExpression>();
    node->operands.push_back(std::move(left));
    while (skip_operator("+")) node->operands.push_back(parse_concat());
    left = finish(std::move(node));
  }
  return left;
}

ExpressionPtr Parser::parse_concat() {
  ExpressionPtr first = parse_product();
  if (!is_operator("~")) return first;
  auto node = start<ConcatExpression>();
  node->operands.push_back(std::move(first));
  while (skip_operator("~")) node->operands.push_back(parse_product());
  return finish(std::move(node));
}

ExpressionPtr Parser::parse_product() {
  static constexpr std::pair<std::string_view, BinaryOperator> kOperators[] = {
      {"*", BinaryOperator::kMultiply},
      {"/", BinaryOperator::kDivide},
      {"//", BinaryOperator::kFloorDivide},
      {"%", BinaryOperator::kModulo},
  };
  ExpressionPtr left = parse_power();
  while (true) {
    const auto* found = std::find_if(std::begin(kOperators), std::end(kOperators),
                                     [&](const auto& entry) { return is_operator(entry.first); });
    if (found == std::end(kOperators)) return left;
    auto node = start<BinaryExpression>();
    advance();
    node->operation = found->second;
    node->left = std::move(left);
    node->right = parse_power();
    left = finish(std::move(node));
  }
}

ExpressionPtr Parser::parse_power() {
  ExpressionPtr left = parse_unary();
  while (is_operator("**")) {
    auto node = start<BinaryExpression>();
    advance();
    node->operation = BinaryOperator::kPower;
    node->left = std::move(left);
    node->right = parse_unary();
    left = finish(std::move(node));
  }
  return left;
}

ExpressionPtr Parser::parse_unary(bool with_filter) {
  ExpressionPtr node;
  if (is_operator("-") || is_operator("+")) {
    if (++depth_ > kMaxNesting) fail_at(current(), fmt::format("nested deeper than {} levels", kMaxNesting));
    auto unary = start<UnaryExpression>();
    unary->operation = advance().text == "-" ? UnaryOperator::kMinus : UnaryOperator::kPlus;
    unary->operand = parse_unary(false);
    node = finish(std::move(unary));
    --depth_;
  } else {
    node = parse_primary();
  }
  node = parse_postfix(std::move(node));
  return with_filter ? parse_filter_or_test(std::move(node)) : std::move(node);
}

ExpressionPtr Parser::parse_primary(bool with_namespace) {
  const Token& token = current();
  switch (token.type) {
    case TokenType::kName:
      return parse_name(with_namespace);
    case TokenType::kString:
      return parse_string();
    case TokenType::kInteger:
    case TokenType::kFloat: {
      auto node = start<ConstantExpression>();
      node->value = token.type == TokenType::kInteger ? Value::integer(token.integer) : Value::number(token.number);
      advance();
      return node;
    }
    default:
      break;
  }
  if (skip_operator("(")) {
    ExpressionPtr node = parse_tuple({false, true, true, false, {}});
    expect_operator(")");
    return node;
  }
  if (is_operator("[")) return parse_list();
  if (is_operator("{")) return parse_dict();
  fail_at(token, fmt::format("unexpected '{}'", describe(token)));
}

ExpressionPtr Parser::parse_name(bool with_namespace) {
  const std::string& text = current().text;
  const bool is_true = text == "true" || text == "True";
  const bool is_none = text == "none" || text == "None";
  if (is_true || is_none || text == "false" || text == "False") {
    auto node = start<ConstantExpression>();
    node->value = is_none ? Value::none() : Value::boolean(is_true);
    advance();
    return node;
  }
  if (with_namespace && look_ahead().type == TokenType::kOperator && look_ahead().text == ".") {
    auto node = start<NamespaceReference>();
    node->name = advance().text;
    advance();
    node->attribute = expect_name().text;
    return node;
  }
  auto node = start<NameExpression>();
  node->name = advance().text;
  return node;
}

ExpressionPtr Parser::parse_string() {
  auto node = start<ConstantExpression>();
  while (current().type == TokenType::kString) node->text += advance().text;
  node->value = Value::view(node->text);
  return node;
}

bool Parser::at_tuple_end(const TupleRules& rules) const {
  return current().type == TokenType::kVariableEnd || current().type == TokenType::kBlockEnd || is_operator(")") ||
         (!rules.end_name.empty() && is_name(rules.end_name));
}

ExpressionPtr Parser::parse_tuple(const TupleRules& rules) {
  if (++depth_ > kMaxNesting) fail_at(current(), fmt::format("nested deeper than {} levels", kMaxNesting));
  auto tuple = start<SequenceExpression>();
  tuple->kind = Kind::kTuple;
  bool is_tuple = false;
  while (true) {
    if (!tuple->items.empty()) expect_operator(",");
    if (at_tuple_end(rules)) break;
    tuple->items.push_back(rules.simplified ? parse_primary(rules.with_namespace)
                                            : parse_expression(rules.conditional));
    if (!is_operator(",")) break;
    is_tuple = true;
  }
  --depth_;
  if (!is_tuple && !tuple->items.empty()) return std::move(tuple->items.front());
  if (!is_tuple && !rules.parenthesized) {
    fail_at(current(), fmt::format("expected an expression, got '{}'", describe(current())));
  }
  return finish(std::move(tuple));
}

ExpressionPtr Parser::parse_list() {
  auto node = start<SequenceExpression>();
  advance();
  while (!is_operator("]")) {
    if (!node->items.empty()) expect_operator(",");
    if (is_operator("]")) break;
    node->items.push_back(parse_expression());
  }
  advance();
  return finish(std::move(node));
}

ExpressionPtr Parser::parse_dict() {
  auto node = start<DictExpression>();
  advance();
  while (!is_operator("}")) {
    if (!node->items.empty()) expect_operator(",");
    if (is_operator("}")) break;
    ExpressionPtr key = parse_expression();
    expect_operator(":");
    node->items.emplace_back(std::move(key), parse_expression());
  }
  advance();
  return finish(std::move(node));
}

ExpressionPtr Parser::parse_postfix(ExpressionPtr node) {
  while (true) {
    if (is_operator(".")) {
      node = parse_attribute(std::move(node));
    } else if (is_operator("[")) {
      node = parse_subscript(std::move(node));
    } else if (is_operator("(")) {
      node = parse_call(std::move(node));
    } else {
      return node;
    }
  }
}

ExpressionPtr Parser::parse_filter_or_test(ExpressionPtr node) {
  while (true) {
    if (is_operator("|")) {
      node = parse_filters(std::move(node), false);
    } else if (is_name("is")) {
      node = parse_test(std::move(node));
    } else if (is_operator("(")) {
      node = parse_call(std::move(node));
    } else {
      return node;
    }
  }
}

ExpressionPtr Parser::parse_attribute(ExpressionPtr object) {
  advance();
  const Token& token = current();
  if (token.type == TokenType::kInteger) {
    auto node = start<ItemExpression>();
    node->object = std::move(object);
    auto index = start<ConstantExpression>();
    index->value = Value::integer(token.integer);
    node->index = std::move(index);
    advance();
    return finish(std::move(node));
  }
  if (token.type != TokenType::kName) fail_at(token, "expected name or number");
  auto node = start<AttributeExpression>();
  node->object = std::move(object);
  node->name = advance().text;
  node->method = method_named(node->name);
  return finish(std::move(node));
}

ExpressionPtr Parser::parse_subscript(ExpressionPtr object) {
  auto slice = start<SliceExpression>();
  auto item = start<ItemExpression>();
  advance();
  ExpressionPtr index;
  if (is_operator("]")) fail_at(current(), "expected an index");
  if (!is_operator(":")) index = parse_expression();
  if (!is_operator(":")) {
    if (is_operator(",")) {  // a[b, c]: a tuple as the index
      auto tuple = start<SequenceExpression>();
      tuple->kind = Kind::kTuple;
      tuple->items.push_back(std::move(index));
      while (skip_operator(",")) tuple->items.push_back(parse_expression());
      index = finish(std::move(tuple));
    }
    expect_operator("]");
    item->object = std::move(object);
    item->index = std::move(index);
    return finish(std::move(item));
  }
  advance();
  slice->object = std::move(object);
  slice->start = std::move(index);
  if (!is_operator(":") && !is_operator("]")) slice->stop = parse_expression();
  if (skip_operator(":") && !is_operator("]")) slice->step = parse_expression();
  expect_operator("]");
  return finish(std::move(slice));
}

ExpressionPtr Parser::parse_call(ExpressionPtr callee) {
  auto node = start<CallExpression>();
  node->callee = std::move(callee);
  node->by_name = dynamic_cast<const NameExpression*>(node->callee.get()) != nullptr;
  const auto* attribute = dynamic_cast<const AttributeExpression*>(node->callee.get());
  if (attribute && attribute->method != MethodId::kNone) node->method = attribute;
  node->arguments = parse_arguments();
  return finish(std::move(node));
}

ArgumentList Parser::parse_arguments() {
  ArgumentList list;
  const Token& open = expect_operator("(");
  const auto require = [&](bool valid) {
    if (!valid) fail_at(open, "invalid syntax for function call expression");
  };
  for (bool first = true; !is_operator(")"); first = false) {
    if (!first) {
      expect_operator(",");
      if (is_operator(")")) break;
    }
    if (skip_operator("*")) {
      require(!list.star && !list.double_star);
      list.star = parse_expression();
    } else if (skip_operator("**")) {
      require(!list.double_star);
      list.double_star = parse_expression();
    } else if (current().type == TokenType::kName && look_ahead().type == TokenType::kOperator &&
               look_ahead().text == "=") {
      require(!list.double_star);
      std::string name = advance().text;
      advance();
      for (const auto& [other, value] : list.keywords) {
        if (other == name) fail_at(open, fmt::format("keyword argument repeated: {}", name));
      }
      list.keywords.emplace_back(std::move(name), parse_expression());
    } else {
      require(!list.star && !list.double_star && list.keywords.empty());
      list.positional.push_back(parse_expression());
    }
  }
  expect_operator(")");
  return list;
}

std::string Parser::parse_dotted_name() {
  std::string name = expect_name().text;
  while (skip_operator(".")) name += "." + expect_name().text;
  return name;
}

ExpressionPtr Parser::parse_filters(ExpressionPtr node, bool start_inline) {
  while (start_inline || is_operator("|")) {
    if (!start_inline) advance();
    start_inline = false;
    auto filter = start<FilterExpression>();
    filter->subject = std::move(node);
    filter->name = parse_dotted_name();
    if (is_operator("(")) filter->arguments = parse_arguments();
    node = finish(std::move(filter));
  }
  return node;
}

ExpressionPtr Parser::parse_test(ExpressionPtr subject) {
  advance();
  const bool negated = skip_name("not");
  auto test = start<TestExpression>();
  test->subject = std::move(subject);
  test->name = parse_dotted_name();
  const TokenType type = current().type;
  const bool literal = type == TokenType::kString || type == TokenType::kInteger || type == TokenType::kFloat;
  const bool argument_name = type == TokenType::kName && !is_name("else") && !is_name("or") && !is_name("and");
  if (is_operator("(")) {
    test->arguments = parse_arguments();
  } else if (literal || argument_name || is_operator("[") || is_operator("{")) {
    if (is_name("is")) fail_at(current(), "you cannot chain multiple tests with is");
    test->arguments.positional.push_back(parse_postfix(parse_primary()));
  }
  ExpressionPtr node = finish(std::move(test));
  if (!negated) return node;
  auto inverse = start<UnaryExpression>();
  inverse->at = node->at;
  inverse->operand = std::move(node);
  return finish(std::move(inverse));
}

}  // namespace qlora::jinja
