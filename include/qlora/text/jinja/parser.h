// Tokens to a tree, by jinja2's grammar with the extensions loopcontrols and generation.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "qlora/text/jinja/ast.h"
#include "qlora/text/jinja/lexer.h"

namespace qlora::jinja {

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  // Throws SyntaxFailure. The scope pass (resolve_scopes) must follow.
  std::unique_ptr<Program> parse();

 private:
  // How deep brackets and blocks may nest and how high an expression's tree may be: bounds the stack that parsing and
  // rendering need.
  static constexpr std::uint32_t kMaxNesting = 150;
  static constexpr std::uint32_t kMaxHeight = 400;
  class Nested;

  // Tokens.
  const Token& current() const { return tokens_[at_]; }
  const Token& look_ahead() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  const Token& advance();
  bool is_operator(std::string_view text) const;
  bool is_name(std::string_view text) const;
  bool skip_operator(std::string_view text);
  bool skip_name(std::string_view text);
  const Token& expect_operator(std::string_view text);
  const Token& expect_name(std::string_view text = {});
  void expect(TokenType type, std::string_view what);
  [[noreturn]] void fail_at(const Token& token, const std::string& message) const;

  // Statements.
  Body parse_until(std::initializer_list<std::string_view> ends);
  Body parse_block_body(std::initializer_list<std::string_view> ends, bool drop_end = true);
  void parse_into(Body& body);
  std::unique_ptr<Statement> parse_statement();
  std::unique_ptr<Statement> parse_for();
  std::unique_ptr<Statement> parse_if();
  std::unique_ptr<Statement> parse_set();
  std::unique_ptr<Statement> parse_macro();
  std::unique_ptr<Statement> parse_call_block();
  std::unique_ptr<Statement> parse_filter_block();
  std::unique_ptr<Statement> parse_with();
  std::unique_ptr<Statement> parse_generation();
  std::unique_ptr<Statement> parse_jump();
  void parse_print_tag(Body& body);
  void parse_signature(MacroDefinition& macro);
  void parse_macro_body(MacroDefinition& macro, std::string_view end);
  Target to_target(const Expression& expression) const;
  Target parse_target(bool with_namespace);
  void check_assignable(const Target& target) const;
  bool mentions(std::string_view name, std::size_t first, std::size_t last) const;

  // Expressions.
  template <class T>
  std::unique_ptr<T> start() const;  // a node at the current token
  ExpressionPtr finish(ExpressionPtr node) const;
  ExpressionPtr parse_expression(bool conditional = true);
  ExpressionPtr parse_or();
  ExpressionPtr parse_and();
  ExpressionPtr parse_not();
  ExpressionPtr parse_compare();
  ExpressionPtr parse_sum();
  ExpressionPtr parse_concat();
  ExpressionPtr parse_product();
  ExpressionPtr parse_power();
  ExpressionPtr parse_unary(bool with_filter = true);
  ExpressionPtr parse_primary(bool with_namespace = false);
  ExpressionPtr parse_name(bool with_namespace);
  ExpressionPtr parse_string();
  struct TupleRules {
    bool simplified = false;  // only primaries
    bool conditional = true;
    bool parenthesized = false;
    bool with_namespace = false;
    std::string_view end_name;  // also ends the tuple
  };
  ExpressionPtr parse_tuple(const TupleRules& rules);
  bool at_tuple_end(const TupleRules& rules) const;
  ExpressionPtr parse_list();
  ExpressionPtr parse_dict();
  ExpressionPtr parse_postfix(ExpressionPtr node);
  ExpressionPtr parse_filter_or_test(ExpressionPtr node);
  ExpressionPtr parse_attribute(ExpressionPtr node);
  ExpressionPtr parse_subscript(ExpressionPtr node);
  ExpressionPtr parse_call(ExpressionPtr node);
  ArgumentList parse_arguments();
  ExpressionPtr parse_filters(ExpressionPtr node, bool start_inline);
  ExpressionPtr parse_test(ExpressionPtr node);
  std::string parse_dotted_name();

  std::vector<Token> tokens_;
  std::size_t at_ = 0;
  std::uint32_t depth_ = 0;
  int loops_ = 0;      // loops around the current statement within the innermost macro
  int all_loops_ = 0;  // and those around the macro
};

// Gives names their slots by jinja2's scoping, checks filters and tests. Throws SyntaxFailure.
void resolve_scopes(Program& program);

}  // namespace qlora::jinja
