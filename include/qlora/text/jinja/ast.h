// The tree of a template: what the parser makes, the scope pass completes with slots, and the evaluator runs.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "qlora/text/jinja/value.h"

namespace qlora::jinja {

class Render;
class Resolver;
class Symbols;
struct Frame;
struct FilterSpec;
struct TestSpec;
enum class MethodId : std::uint8_t;

// A variable's place: so many functions (macros, recursive loops) outwards, then an index.
struct Slot {
  std::uint32_t hops = 0;
  std::uint32_t index = 0;
};

// How many variables one call of a macro, a recursive loop, a loop's filter or the whole template needs.
struct FunctionLayout {
  std::uint32_t slots = 0;
  std::uint32_t nesting = 0;  // of statements and expressions: what a call takes of the stack
};

// What happens to the variables of a scope when it is entered.
struct SlotLoad {
  enum class From : std::uint8_t { kContext, kOuter, kNothing } from = From::kNothing;
  std::uint32_t index = 0;    // in the running function
  Slot outer;                 // kOuter: the variable it starts as
  std::uint32_t context = 0;  // kContext: the index of the name among those looked up in the input
};

struct Node {
  Node() = default;
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;
  virtual ~Node() = default;

  std::uint32_t at = 0;      // byte of the source
  std::uint32_t height = 1;  // of an expression: levels of its tree
};

struct Expression : Node {
  virtual Value evaluate(Render& render) const = 0;
  // Appends str(value) to the output.
  virtual void print(Render& render) const;
  virtual void each_child(const std::function<void(Expression&)>&) {}
};
using ExpressionPtr = std::unique_ptr<Expression>;
using Expressions = std::vector<ExpressionPtr>;

enum class Flow : std::uint8_t { kNormal, kBreak, kContinue };

struct Statement : Node {
  virtual Flow execute(Render& render) const = 0;
  // The names this statement loads and stores in the scope it stands in.
  virtual void declare(Symbols& symbols) = 0;
  // Gives every name its slot; scopes within are laid out here.
  virtual void resolve(Resolver& resolver, const Frame& frame) = 0;
};
using Body = std::vector<std::unique_ptr<Statement>>;

// --- expressions ---

struct ConstantExpression : Expression {
  std::string text;  // what a string constant views
  Value value;
  Value evaluate(Render& render) const override;
};

struct NameExpression : Expression {
  std::string name;
  Slot slot;
  Value evaluate(Render& render) const override;
};

// ns.attribute as a target of `set`; never evaluated.
struct NamespaceReference : Expression {
  std::string name, attribute;
  Value evaluate(Render& render) const override;
};

struct SequenceExpression : Expression {
  Kind kind = Kind::kList;  // or kTuple
  Expressions items;
  Value evaluate(Render& render) const override;
  void each_child(const std::function<void(Expression&)>& visit) override;
};

struct DictExpression : Expression {
  std::vector<std::pair<ExpressionPtr, ExpressionPtr>> items;
  Value evaluate(Render& render) const override;
  void each_child(const std::function<void(Expression&)>& visit) override;
};

struct AttributeExpression : Expression {
  ExpressionPtr object;
  std::string name;
  MethodId method{};  // what the name means as a method of str, list, dict, ...; kNone mostly
  Value evaluate(Render& render) const override;
  void each_child(const std::function<void(Expression&)>& visit) override;
};

struct ItemExpression : Expression {
  ExpressionPtr object, index;
  Value evaluate(Render& render) const override;
  void each_child(const std::function<void(Expression&)>& visit) override;
};

struct SliceExpression : Expression {
  ExpressionPtr object, start, stop, step;  // null: left out
  Value evaluate(Render& render) const override;
  void each_child(const std::function<void(Expression&)>& visit) override;
};

struct ArgumentList {
  Expressions positional;
  std::vector<std::pair<std::string, ExpressionPtr>> keywords;
  ExpressionPtr star, double_star;
  void each_child(const std::function<void(Expression&)>& visit);
};

struct CallExpression : Expression {
  ExpressionPtr callee;
  const AttributeExpression* method = nullptr;  // the callee where it may name a method
  bool by_name = false;                         // the callee is a variable
  ArgumentList arguments;
  Value evaluate(Render& render) const override;
  void print(Render& render) const override;
  void each_child(const std::function<void(Expression&)>& visit) override;
};

struct FilterExpression : Expression {
  ExpressionPtr subject;  // null in `filter` blocks: what the block printed
  std::string name;
  ArgumentList arguments;
  const FilterSpec* spec = nullptr;  // null: unknown, an error when it runs
  Value evaluate(Render& render) const override;
  Value apply(Render& render, const Value& value) const;
  void each_child(const std::function<void(Expression&)>& visit) override;
};

struct TestExpression : Expression {
  ExpressionPtr subject;
  std::string name;
  ArgumentList arguments;
  const TestSpec* spec = nullptr;
  Value evaluate(Render& render) const override;
  void each_child(const std::function<void(Expression&)>& visit) override;
};

enum class UnaryOperator : std::uint8_t { kNot, kMinus, kPlus };

struct UnaryExpression : Expression {
  UnaryOperator operation = UnaryOperator::kNot;
  ExpressionPtr operand;
  Value evaluate(Render& render) const override;
  void each_child(const std::function<void(Expression&)>& visit) override;
};

enum class BinaryOperator : std::uint8_t { kAdd, kSubtract, kMultiply, kDivide, kFloorDivide, kModulo, kPower };

struct BinaryExpression : Expression {
  BinaryOperator operation = BinaryOperator::kAdd;
  ExpressionPtr left, right;
  Value evaluate(Render& render) const override;
  void each_child(const std::function<void(Expression&)>& visit) override;
};

// a + b + c, from the left: strings are appended to one buffer.
struct SumExpression : Expression {
  Expressions operands;
  Value evaluate(Render& render) const override;
  void print(Render& render) const override;
  void each_child(const std::function<void(Expression&)>& visit) override;

 private:
  // Appends the leading plain strings to out; returns how many operands that took, and the value of the next one.
  std::size_t append_strings(Render& render, std::string& out, Value& next) const;
  Value finish(Render& render, Value left, Value next, std::size_t index) const;
};

struct ConcatExpression : Expression {  // ~
  Expressions operands;
  Value evaluate(Render& render) const override;
  void print(Render& render) const override;
  void each_child(const std::function<void(Expression&)>& visit) override;
};

enum class ComparisonOperator : std::uint8_t {
  kEqual,
  kNotEqual,
  kLess,
  kLessEqual,
  kGreater,
  kGreaterEqual,
  kIn,
  kNotIn
};

struct CompareExpression : Expression {
  ExpressionPtr first;
  std::vector<std::pair<ComparisonOperator, ExpressionPtr>> rest;
  Value evaluate(Render& render) const override;
  void each_child(const std::function<void(Expression&)>& visit) override;
};

struct LogicExpression : Expression {  // and, or
  bool is_and = true;
  ExpressionPtr left, right;
  Value evaluate(Render& render) const override;
  void each_child(const std::function<void(Expression&)>& visit) override;
};

struct ConditionalExpression : Expression {
  ExpressionPtr condition, then, otherwise;  // otherwise may be null
  Value evaluate(Render& render) const override;
  void print(Render& render) const override;
  void each_child(const std::function<void(Expression&)>& visit) override;
};

// --- statements ---

// What `set` and `for` assign to: a name, an attribute of a namespace, or a tuple of targets.
struct Target {
  enum class Type : std::uint8_t { kName, kNamespace, kTuple } type = Type::kName;
  std::string name, attribute;
  std::vector<Target> items;
  Slot slot;
  std::uint32_t at = 0;
};

struct DataStatement : Statement {
  std::string text;
  Flow execute(Render& render) const override;
  void declare(Symbols& symbols) override;
  void resolve(Resolver& resolver, const Frame& frame) override;
};

struct PrintStatement : Statement {
  ExpressionPtr value;
  Flow execute(Render& render) const override;
  void declare(Symbols& symbols) override;
  void resolve(Resolver& resolver, const Frame& frame) override;
};

struct IfStatement : Statement {
  std::vector<std::pair<ExpressionPtr, Body>> branches;
  Body otherwise;
  Flow execute(Render& render) const override;
  void declare(Symbols& symbols) override;
  void resolve(Resolver& resolver, const Frame& frame) override;
};

struct ForStatement : Statement {
  Target target, test_target;
  ExpressionPtr iterable, test;
  bool recursive = false;
  bool uses_loop = false;
  Body body, otherwise;
  Slot loop_slot;
  std::vector<SlotLoad> body_loads, else_loads, test_loads;
  std::shared_ptr<FunctionLayout> function, test_function;  // of a recursive loop; of a loop with a test

  Flow execute(Render& render) const override;
  // Runs over one iterable; depth0 counts recursive calls.
  Flow run(Render& render, const Value& items, std::int64_t depth0) const;
  void declare(Symbols& symbols) override;
  void resolve(Resolver& resolver, const Frame& frame) override;

 private:
  Value filtered(Render& render, Value items) const;
  Flow run_plain(Render& render, const Value& items, bool& completed) const;
  Flow run_with_loop(Render& render, const Value& items, std::int64_t depth0, bool& completed) const;
};

struct SetStatement : Statement {
  Target target;
  ExpressionPtr value;
  Flow execute(Render& render) const override;
  void declare(Symbols& symbols) override;
  void resolve(Resolver& resolver, const Frame& frame) override;
};

struct SetBlockStatement : Statement {
  Target target;
  ExpressionPtr filter;  // innermost filter has no subject; may be null
  Body body;
  std::vector<SlotLoad> loads;
  Flow execute(Render& render) const override;
  void declare(Symbols& symbols) override;
  void resolve(Resolver& resolver, const Frame& frame) override;
};

struct MacroDefinition {
  std::string name;
  std::vector<std::string> parameters;
  std::vector<Slot> parameter_slots;
  Expressions defaults;  // of the last parameters
  Body body;
  bool uses_caller = false, uses_kwargs = false, uses_varargs = false;
  bool explicit_caller = false;  // a parameter is called so
  Slot caller_slot, kwargs_slot, varargs_slot;
  std::vector<SlotLoad> loads;
  std::shared_ptr<FunctionLayout> function;
  std::uint32_t at = 0;

  void declare(Symbols& symbols);  // within the macro
  void resolve(Resolver& resolver, const Frame& frame);
};

struct MacroStatement : Statement {
  MacroDefinition definition;
  Slot slot;
  Flow execute(Render& render) const override;
  void declare(Symbols& symbols) override;
  void resolve(Resolver& resolver, const Frame& frame) override;
};

struct CallBlockStatement : Statement {
  MacroDefinition caller;
  std::unique_ptr<CallExpression> call;
  Flow execute(Render& render) const override;
  void declare(Symbols& symbols) override;
  void resolve(Resolver& resolver, const Frame& frame) override;
};

// {% generation %}: the text the assistant generated; a scope of its own, printed as it is.
struct GenerationStatement : Statement {
  MacroDefinition content;
  Flow execute(Render& render) const override;
  void declare(Symbols& symbols) override;
  void resolve(Resolver& resolver, const Frame& frame) override;
};

struct FilterBlockStatement : Statement {
  ExpressionPtr filter;
  Body body;
  std::vector<SlotLoad> loads;
  Flow execute(Render& render) const override;
  void declare(Symbols& symbols) override;
  void resolve(Resolver& resolver, const Frame& frame) override;
};

struct WithStatement : Statement {
  std::vector<std::pair<Target, ExpressionPtr>> assignments;
  Body body;
  std::vector<SlotLoad> loads;
  Flow execute(Render& render) const override;
  void declare(Symbols& symbols) override;
  void resolve(Resolver& resolver, const Frame& frame) override;
};

struct JumpStatement : Statement {  // break, continue
  Flow flow = Flow::kBreak;
  Flow execute(Render& render) const override;
  void declare(Symbols& symbols) override;
  void resolve(Resolver& resolver, const Frame& frame) override;
};

// A whole template.
struct Program {
  Body body;
  std::vector<SlotLoad> loads;
  FunctionLayout function;
  std::vector<std::string> context_names;  // looked up in the input, then among the globals
};

}  // namespace qlora::jinja
