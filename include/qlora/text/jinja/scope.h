// Which variable a name means: jinja2's scoping, worked out before the template runs.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "qlora/text/jinja/ast.h"

namespace qlora::jinja {

// A function under resolution: the template, a macro, a recursive loop or a loop's filter.
struct FunctionScope {
  FunctionScope* outer = nullptr;
  FunctionLayout* layout = nullptr;
};

struct VariableReference {
  FunctionScope* function = nullptr;
  std::uint32_t index = 0;
};

// The names of one scope: which it loads, which it stores, and what each starts as.
class Symbols {
 public:
  Symbols(Symbols* parent, FunctionScope* function);

  void load(const std::string& name);
  void store(const std::string& name);
  void parameter(const std::string& name);
  std::optional<VariableReference> find(const std::string& name) const;
  // Copies for the branches of an `if`, merged afterwards.
  void merge(const std::vector<Symbols>& branches);

  struct Load {
    enum class From { kParameter, kContext, kOuter, kNothing } from = From::kNothing;
    std::string name;
    VariableReference outer;
  };
  const std::map<std::uint32_t, Load>& loads() const { return loads_; }
  FunctionScope* function() const { return function_; }

 private:
  std::uint32_t define(const std::string& name, Load load);

  Symbols* parent_;
  FunctionScope* function_;
  std::shared_ptr<std::map<std::string, std::uint32_t>> slots_;  // shared by the copies
  std::map<std::string, std::uint32_t> references_;
  std::map<std::uint32_t, Load> loads_;
  std::set<std::string> stores_;
};

// Where a statement stands while names are resolved.
struct Frame {
  Symbols* symbols = nullptr;
  bool soft = false;        // within an `if`: unknown filters fail only when they run
  std::uint32_t depth = 1;  // statements around it within its function
};

class Resolver {
 public:
  explicit Resolver(Program& program) : program_(program) {}

  void body(const Body& body, const Frame& frame);
  void expression(Expression& expression, const Frame& frame);
  void target(Target& target, const Frame& frame);
  Slot slot(const Symbols& symbols, const std::string& name) const;
  Slot slot(const Symbols& symbols, const VariableReference& reference) const;
  std::vector<SlotLoad> loads(const Symbols& symbols);

 private:
  void names(Expression& expression, const Frame& frame);

  Program& program_;
};

void declare(Expression& expression, Symbols& symbols);
void declare(const Target& target, Symbols& symbols, bool as_parameter);

}  // namespace qlora::jinja
