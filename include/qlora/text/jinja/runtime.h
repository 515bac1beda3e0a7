// One rendering: its variables, output, limits and the objects it owns.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "qlora/text/jinja/ast.h"
#include "qlora/text/jinja/library.h"

namespace qlora::jinja {

// The variables of one running function.
struct Environment {
  Environment(Environment* enclosing, std::uint32_t count) : outer(enclosing), slots(count) {}
  Environment* outer;
  std::vector<Value> slots;
  bool captured = false;  // a macro made within refers to it: lives as long as the rendering
};

struct MacroObject : Object {
  std::string description() override;

  const MacroDefinition* definition = nullptr;
  Environment* closure = nullptr;
};

// `loop` within a for.
struct LoopObject : Object {
  LoopObject(Render& render, const ForStatement& loop, const Value& items, std::int64_t calls);

  bool next(Value& item);
  bool peek();  // whether there is a next item, which then is `after`
  std::int64_t length();
  Value attribute(std::string_view name);  // missing where there is none
  bool changed(Render& render, Value values);
  void clear() override;
  std::string description() override;

  Render& render;
  const ForStatement& statement;
  Environment* enclosing = nullptr;  // of the function that a recursive loop is
  Cursor cursor;
  std::int64_t index0 = -1;
  std::int64_t depth0 = 0;
  std::int64_t known_length = -1;
  Value before, current, after, last_changed;
};

class Render : public Budget {
 public:
  static constexpr std::uint32_t kMaxCalls = 200;     // macros within macros
  static constexpr std::uint32_t kMaxNesting = 4000;  // levels of the trees that run

  Render(const Program& program, const Json& variables);
  Render(const Render&) = delete;
  Render& operator=(const Render&) = delete;
  ~Render();

  std::string run();

  void write(std::string_view text) {
    output_->append(text);
    if (output_->size() > kOutput) fail_output();
  }
  std::string& output() { return *output_; }
  void check_output() const {
    if (output_->size() > kOutput) fail_output();
  }
  void write_value(const Value& value);

  Value& variable(Slot slot) {
    Environment* environment = environment_;
    for (std::uint32_t hops = slot.hops; hops > 0; --hops) environment = environment->outer;
    return environment->slots[slot.index];
  }
  Environment* environment() const { return environment_; }
  void capture_environment();
  void enter(const std::vector<SlotLoad>& loads);
  void leave(const std::vector<SlotLoad>& loads);

  // Keeps an object until the rendering ends.
  template <class T>
  T* pin(std::unique_ptr<T> object) {
    T* raw = object.get();
    bytes(sizeof(T));
    pinned_.push_back(std::move(object));
    return raw;
  }
  // A copy of the text that lives as long as the rendering.
  std::string_view keep(std::string_view text);

  Flow execute(const Body& body);
  void assign(const Target& target, Value value);
  Arguments gather(const ArgumentList& list);
  Value call(const Value& callee, Arguments& arguments);
  // Runs a macro, its text going to the output.
  void run_macro(const MacroObject& macro, Arguments& arguments);
  Value make_macro(const MacroDefinition& definition);
  Value call_loop(const LoopObject& loop, Arguments& arguments);

  std::uint32_t at = 0;  // byte of the source that is being evaluated

 private:
  friend class CallFrame;
  friend class Capture;
  friend class Within;
  [[noreturn]] static void fail_output();
  void bind_macro(const MacroObject& macro, Arguments& arguments);

  const Program& program_;
  const Json& variables_;
  std::string text_;
  std::string* output_ = &text_;
  Environment root_;
  Environment* environment_ = &root_;
  std::uint32_t calls_ = 0;
  std::uint32_t nesting_ = 0;
  std::vector<Value> context_;  // by Program::context_names
  std::vector<std::unique_ptr<Object>> pinned_;
  std::vector<std::unique_ptr<Environment>> environments_;  // the captured ones
  std::vector<std::unique_ptr<std::string>> texts_;
};

// Runs what follows in a fresh environment of a function.
class CallFrame {
 public:
  CallFrame(Render& render, const FunctionLayout& function, Environment* outer);
  ~CallFrame();
  CallFrame(const CallFrame&) = delete;
  CallFrame& operator=(const CallFrame&) = delete;

 private:
  Render& render_;
  Environment* caller_;
  std::uint32_t nesting_;
  std::unique_ptr<Environment> environment_;
};

// Runs what follows in an environment that exists.
class Within {
 public:
  Within(Render& render, Environment* environment) : render_(render), caller_(render.environment_) {
    render.environment_ = environment;
  }
  ~Within() { render_.environment_ = caller_; }
  Within(const Within&) = delete;
  Within& operator=(const Within&) = delete;

 private:
  Render& render_;
  Environment* caller_;
};

// Collects the output of what follows.
class Capture {
 public:
  explicit Capture(Render& render) : render_(render), outer_(render.output_) { render.output_ = &text_; }
  ~Capture() { render_.output_ = outer_; }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;
  Value take() { return Value::string(render_, std::move(text_)); }

 private:
  Render& render_;
  std::string* outer_;
  std::string text_;
};

}  // namespace qlora::jinja
