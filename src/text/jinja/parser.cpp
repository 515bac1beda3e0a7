// Statements: the tags of a template and what stands between them.
#include "qlora/text/jinja/parser.h"

#include <algorithm>

#include <fmt/format.h>

namespace qlora::jinja {

class Parser::Nested {
 public:
  explicit Nested(Parser& parser) : parser_(parser) {
    if (++parser_.depth_ > kMaxNesting) {
      parser_.fail_at(parser_.current(), fmt::format("nested deeper than {} levels", kMaxNesting));
    }
  }
  ~Nested() { --parser_.depth_; }
  Nested(const Nested&) = delete;
  Nested& operator=(const Nested&) = delete;

 private:
  Parser& parser_;
};

const Token& Parser::advance() {
  const Token& token = tokens_[at_];
  if (at_ + 1 < tokens_.size()) ++at_;
  return token;
}

bool Parser::is_operator(std::string_view text) const {
  return current().type == TokenType::kOperator && current().text == text;
}

bool Parser::is_name(std::string_view text) const {
  return current().type == TokenType::kName && current().text == text;
}

bool Parser::skip_operator(std::string_view text) {
  if (!is_operator(text)) return false;
  advance();
  return true;
}

bool Parser::skip_name(std::string_view text) {
  if (!is_name(text)) return false;
  advance();
  return true;
}

const Token& Parser::expect_operator(std::string_view text) {
  if (!is_operator(text)) fail_at(current(), fmt::format("expected '{}', got '{}'", text, describe(current())));
  return advance();
}

const Token& Parser::expect_name(std::string_view text) {
  if (current().type != TokenType::kName || (!text.empty() && current().text != text)) {
    fail_at(current(), fmt::format("expected {}, got '{}'", text.empty() ? "a name" : fmt::format("'{}'", text),
                                   describe(current())));
  }
  return advance();
}

void Parser::expect(TokenType type, std::string_view what) {
  if (current().type != type) fail_at(current(), fmt::format("expected {}, got '{}'", what, describe(current())));
  advance();
}

void Parser::fail_at(const Token& token, const std::string& message) const {
  throw SyntaxFailure(token.at, message);
}

std::unique_ptr<Program> Parser::parse() {
  auto program = std::make_unique<Program>();
  while (current().type != TokenType::kEnd) parse_into(program->body);
  return program;
}

// Parses one piece of text, one print or one tag.
void Parser::parse_into(Body& body) {
  const Token& token = current();
  if (token.type == TokenType::kData) {
    auto data = std::make_unique<DataStatement>();
    data->at = token.at;
    data->text = token.text;
    body.push_back(std::move(data));
    advance();
    return;
  }
  if (token.type == TokenType::kVariableBegin) {
    advance();
    auto print = std::make_unique<PrintStatement>();
    print->at = current().at;
    print->value = parse_tuple({});
    body.push_back(std::move(print));
    expect(TokenType::kVariableEnd, "'}}'");
    return;
  }
  expect(TokenType::kBlockBegin, "a tag");
  if (is_name("print")) {
    parse_print_tag(body);
  } else {
    body.push_back(parse_statement());
  }
  expect(TokenType::kBlockEnd, "'%}'");
}

// Parses up to a tag that starts with one of the names, and leaves that name as the current token.
Body Parser::parse_until(std::initializer_list<std::string_view> ends) {
  Body body;
  while (current().type != TokenType::kEnd) {
    if (current().type == TokenType::kBlockBegin && look_ahead().type == TokenType::kName &&
        std::find(ends.begin(), ends.end(), look_ahead().text) != ends.end()) {
      advance();
      return body;
    }
    parse_into(body);
  }
  std::string wanted;
  for (const std::string_view end : ends) wanted += fmt::format("{}'{}'", wanted.empty() ? "" : " or ", end);
  fail_at(current(), fmt::format("unexpected end of template; looking for {}", wanted));
}

Body Parser::parse_block_body(std::initializer_list<std::string_view> ends, bool drop_end) {
  skip_operator(":");
  expect(TokenType::kBlockEnd, "'%}'");
  Body body = parse_until(ends);
  if (drop_end) advance();
  return body;
}

std::unique_ptr<Statement> Parser::parse_statement() {
  const Nested nested(*this);
  const Token& token = current();
  if (token.type != TokenType::kName) fail_at(token, "tag name expected");
  using Method = std::unique_ptr<Statement> (Parser::*)();
  static constexpr std::pair<std::string_view, Method> kTags[] = {
      {"for", &Parser::parse_for},         {"if", &Parser::parse_if},
      {"set", &Parser::parse_set},         {"macro", &Parser::parse_macro},
      {"call", &Parser::parse_call_block}, {"filter", &Parser::parse_filter_block},
      {"with", &Parser::parse_with},       {"generation", &Parser::parse_generation},
      {"break", &Parser::parse_jump},      {"continue", &Parser::parse_jump},
  };
  for (const auto& [name, method] : kTags) {
    if (token.text != name) continue;
    auto statement = (this->*method)();
    statement->at = token.at;
    return statement;
  }
  for (const std::string_view name : {"extends", "include", "import", "from", "block", "autoescape"}) {
    if (token.text == name) fail_at(token, fmt::format("the tag '{}' cannot be used in a chat template", name));
  }
  fail_at(token, fmt::format("unknown tag '{}'", token.text));
}

std::unique_ptr<Statement> Parser::parse_for() {
  auto statement = std::make_unique<ForStatement>();
  advance();
  ++all_loops_;
  const std::uint32_t target_at = current().at;
  const ExpressionPtr target = parse_tuple({true, true, false, false, "in"});
  statement->target = to_target(*target);
  statement->target.at = target_at;
  check_assignable(statement->target);
  statement->test_target = statement->target;
  expect_name("in");
  statement->iterable = parse_tuple({false, false, false, false, "recursive"});
  if (skip_name("if")) statement->test = parse_expression();
  statement->recursive = skip_name("recursive");
  ++loops_;
  const std::size_t first = at_;
  statement->body = parse_block_body({"endfor", "else"}, false);
  statement->uses_loop = statement->recursive || mentions("loop", first, at_);
  --loops_;
  if (advance().text == "else") statement->otherwise = parse_block_body({"endfor"});
  --all_loops_;
  return statement;
}

std::unique_ptr<Statement> Parser::parse_if() {
  auto statement = std::make_unique<IfStatement>();
  advance();
  while (true) {
    ExpressionPtr condition = parse_tuple({false, false, false, false, {}});
    Body body = parse_block_body({"elif", "else", "endif"}, false);
    statement->branches.emplace_back(std::move(condition), std::move(body));
    const Token& end = advance();
    if (end.text == "elif") continue;
    if (end.text == "else") statement->otherwise = parse_block_body({"endif"});
    return statement;
  }
}

std::unique_ptr<Statement> Parser::parse_set() {
  advance();
  Target target = parse_target(true);
  if (skip_operator("=")) {
    auto statement = std::make_unique<SetStatement>();
    statement->target = std::move(target);
    statement->value = parse_tuple({});
    return statement;
  }
  auto statement = std::make_unique<SetBlockStatement>();
  statement->target = std::move(target);
  statement->filter = parse_filters(nullptr, false);
  statement->body = parse_block_body({"endset"});
  return statement;
}

std::unique_ptr<Statement> Parser::parse_macro() {
  auto statement = std::make_unique<MacroStatement>();
  advance();
  MacroDefinition& macro = statement->definition;
  macro.at = current().at;
  macro.name = expect_name().text;
  parse_signature(macro);
  parse_macro_body(macro, "endmacro");
  return statement;
}

std::unique_ptr<Statement> Parser::parse_call_block() {
  auto statement = std::make_unique<CallBlockStatement>();
  const Token& token = advance();
  statement->caller.at = token.at;
  statement->caller.name = "caller";
  if (is_operator("(")) parse_signature(statement->caller);
  ExpressionPtr call = parse_expression();
  auto* typed = dynamic_cast<CallExpression*>(call.get());
  if (!typed) fail_at(token, "expected call");
  call.release();
  statement->call.reset(typed);
  parse_macro_body(statement->caller, "endcall");
  return statement;
}

std::unique_ptr<Statement> Parser::parse_filter_block() {
  auto statement = std::make_unique<FilterBlockStatement>();
  advance();
  statement->filter = parse_filters(nullptr, true);
  statement->body = parse_block_body({"endfilter"});
  return statement;
}

std::unique_ptr<Statement> Parser::parse_with() {
  auto statement = std::make_unique<WithStatement>();
  advance();
  while (current().type != TokenType::kBlockEnd) {
    if (!statement->assignments.empty()) expect_operator(",");
    Target target = parse_target(false);
    expect_operator("=");
    statement->assignments.emplace_back(std::move(target), parse_expression());
  }
  statement->body = parse_block_body({"endwith"});
  return statement;
}

std::unique_ptr<Statement> Parser::parse_generation() {
  auto statement = std::make_unique<GenerationStatement>();
  statement->content.at = advance().at;
  statement->content.name = "generation";
  parse_macro_body(statement->content, "endgeneration");
  return statement;
}

std::unique_ptr<Statement> Parser::parse_jump() {
  auto statement = std::make_unique<JumpStatement>();
  const Token& token = advance();
  if (loops_ == 0) fail_at(token, fmt::format("'{}' outside loop", token.text));
  statement->flow = token.text == "break" ? Flow::kBreak : Flow::kContinue;
  return statement;
}

void Parser::parse_print_tag(Body& body) {
  advance();
  for (bool first = true; current().type != TokenType::kBlockEnd; first = false) {
    if (!first) expect_operator(",");
    auto print = std::make_unique<PrintStatement>();
    print->at = current().at;
    print->value = parse_expression();
    body.push_back(std::move(print));
  }
}

void Parser::parse_signature(MacroDefinition& macro) {
  expect_operator("(");
  while (!is_operator(")")) {
    if (!macro.parameters.empty()) expect_operator(",");
    const Token& name = expect_name();
    Target target;
    target.name = name.text;
    target.at = name.at;
    check_assignable(target);
    if (std::find(macro.parameters.begin(), macro.parameters.end(), name.text) != macro.parameters.end()) {
      fail_at(name, fmt::format("duplicate argument '{}'", name.text));
    }
    macro.parameters.push_back(name.text);
    if (skip_operator("=")) {
      macro.defaults.push_back(parse_expression());
    } else if (!macro.defaults.empty()) {
      fail_at(current(), "non-default argument follows default argument");
    }
  }
  expect_operator(")");
}

void Parser::parse_macro_body(MacroDefinition& macro, std::string_view end) {
  const int loops = std::exchange(loops_, 0);
  const std::size_t first = at_;
  macro.body = parse_block_body({end});
  const auto has = [&](std::string_view name) {
    return std::find(macro.parameters.begin(), macro.parameters.end(), name) != macro.parameters.end();
  };
  macro.explicit_caller = has("caller");
  const bool mentions_caller = mentions("caller", first, at_);
  macro.uses_caller = mentions_caller && !macro.explicit_caller;
  macro.uses_kwargs = !has("kwargs") && mentions("kwargs", first, at_);
  macro.uses_varargs = !has("varargs") && mentions("varargs", first, at_);
  const std::size_t required = macro.parameters.size() - macro.defaults.size();
  if (mentions_caller && macro.explicit_caller) {
    const auto place = std::find(macro.parameters.begin(), macro.parameters.end(), "caller") - macro.parameters.begin();
    if (static_cast<std::size_t>(place) < required) {
      throw SyntaxFailure(macro.at, "the special argument 'caller' must be omitted or be given a default");
    }
  }
  loops_ = loops;
}

Target Parser::to_target(const Expression& expression) const {
  Target target;
  target.at = expression.at;
  if (const auto* name = dynamic_cast<const NameExpression*>(&expression)) {
    target.name = name->name;
  } else if (const auto* reference = dynamic_cast<const NamespaceReference*>(&expression)) {
    target.type = Target::Type::kNamespace;
    target.name = reference->name;
    target.attribute = reference->attribute;
  } else if (const auto* tuple = dynamic_cast<const SequenceExpression*>(&expression);
             tuple && tuple->kind == Kind::kTuple) {
    target.type = Target::Type::kTuple;
    for (const auto& item : tuple->items) target.items.push_back(to_target(*item));
  } else {
    throw SyntaxFailure(expression.at, "can't assign to this expression");
  }
  return target;
}

Target Parser::parse_target(bool with_namespace) {
  const ExpressionPtr expression = parse_tuple({true, true, false, with_namespace, {}});
  Target target = to_target(*expression);
  check_assignable(target);
  return target;
}

void Parser::check_assignable(const Target& target) const {
  if (target.type == Target::Type::kName && target.name == "loop" && all_loops_ > 0) {
    throw SyntaxFailure(target.at, "can't assign to the special variable 'loop' within a for-loop");
  }
  for (const std::string_view constant : {"true", "false", "none", "True", "False", "None"}) {
    if (target.type == Target::Type::kName && target.name == constant) {
      throw SyntaxFailure(target.at, fmt::format("can't assign to '{}'", constant));
    }
  }
  for (const Target& item : target.items) check_assignable(item);
}

// Whether a variable of that name is read among the tokens [first, last).
bool Parser::mentions(std::string_view name, std::size_t first, std::size_t last) const {
  for (std::size_t i = std::max<std::size_t>(first, 1); i < last; ++i) {
    if (tokens_[i].type != TokenType::kName || tokens_[i].text != name) continue;
    const Token& before = tokens_[i - 1];
    if (before.type != TokenType::kOperator || before.text != ".") return true;
  }
  return false;
}

}  // namespace qlora::jinja
