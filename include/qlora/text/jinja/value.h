// The values a chat template computes with: Python's, as far as templates see them. 16 bytes, cheap to copy; strings,
// lists and dicts of the input are views into it.
#pragma once

#include <bit>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace qlora::jinja {

using Json = nlohmann::ordered_json;

// What went wrong while rendering, without its place; whoever knows the place turns it into a DataError.
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};
[[noreturn]] void fail(const std::string& message);

// What a rendering may still spend. Everything that costs time or memory in proportion to data charges it.
class Budget {
 public:
  static constexpr std::int64_t kSteps = 20'000'000;
  static constexpr std::int64_t kBytes = std::int64_t{512}
                                         << 20;  // of strings and lists made on the way, never refunded
  static constexpr std::size_t kOutput = std::size_t{64} << 20;
  static constexpr int kNesting = 400;  // of lists in lists, generators over generators

  void step(std::int64_t count = 1) {
    if ((steps_ -= count) < 0) fail_steps();
  }
  void bytes(std::size_t count) {
    if (count > static_cast<std::size_t>(kBytes) || (bytes_ -= static_cast<std::int64_t>(count)) < 0) fail_bytes();
  }

 private:
  [[noreturn]] static void fail_steps();
  [[noreturn]] static void fail_bytes();

  std::int64_t steps_ = kSteps;
  std::int64_t bytes_ = kBytes;
};

enum class Kind : std::uint8_t {
  kMissing,  // a variable that was never set; no template sees it
  kUndefined,
  kNone,
  kBool,
  kInt,
  kFloat,
  kString,
  kList,
  kTuple,
  kDict,
  kRange,
  kDictView,   // d.keys(), d.values(), d.items()
  kGenerator,  // what lazy filters give: can be walked once
  kNamespace,
  kMacro,
  kFunction,
  kMethod,
  kLoop,
  kCycler,
  kJoiner,
};

// Where an undefined value came from, for the message that names it.
enum class Absence : std::uint8_t { kVariable, kAttribute, kHint, kUnsafe };

// A reference-counted part of a value. Rendering is single-threaded.
struct Object {
  Object() = default;
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;
  virtual ~Object() = default;
  virtual void clear() {}             // drops what it refers to
  virtual std::string description();  // of what prints as neither text nor data

  std::uint32_t references = 0;
  std::uint32_t depth = 1;  // 1 + the deepest value within
};

class Value {
 public:
  Value() noexcept = default;
  Value(const Value& other) noexcept { copy(other); }
  Value(Value&& other) noexcept {
    raw_copy(other);
    other.flags_ = 0;
    other.kind_ = Kind::kMissing;
  }
  Value& operator=(const Value& other) noexcept {
    if (this != &other) {
      Value old(std::move(*this));
      copy(other);
    }
    return *this;
  }
  Value& operator=(Value&& other) noexcept {
    std::swap(kind_, other.kind_);
    std::swap(flags_, other.flags_);
    std::swap(absence_, other.absence_);
    std::swap(owner_kind_, other.owner_kind_);
    std::swap(size_, other.size_);
    std::swap(word_, other.word_);
    return *this;
  }
  ~Value() {
    if (flags_ & kCounted) release();
  }

  static Value none() { return Value(Kind::kNone, 0); }
  static Value boolean(bool value) { return Value(Kind::kBool, value ? 1 : 0); }
  static Value integer(std::int64_t value) { return Value(Kind::kInt, value); }
  static Value number(double value);
  // The characters must outlive the rendering.
  static Value view(std::string_view text, bool markup = false);
  static Value string(Budget& budget, std::string text, bool markup = false);
  // A view of the input, which must outlive the rendering.
  static Value of(const Json& json);
  static Value counted(Kind kind, Object* object);  // freed with the last value that refers to it
  static Value pinned(Kind kind, Object* object);   // freed by the rendering
  static Value function(int id) { return Value(Kind::kFunction, id); }
  // name must outlive the rendering; owner is the kind of the value that lacked it.
  static Value undefined(Absence absence, std::string_view name, Kind owner = Kind::kMissing);

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool is_string() const { return kind_ == Kind::kString; }
  bool is_undefined() const { return kind_ == Kind::kUndefined; }
  bool is_number() const { return kind_ >= Kind::kBool && kind_ <= Kind::kFloat; }
  bool is_integral() const { return kind_ == Kind::kInt || kind_ == Kind::kBool; }
  bool is_sequence() const { return kind_ == Kind::kList || kind_ == Kind::kTuple; }

  bool as_bool() const { return word_ != 0; }
  std::int64_t as_integer() const { return word_; }  // of a bool or an int
  double as_number() const {                         // of a bool, an int or a float
    return kind_ == Kind::kFloat ? std::bit_cast<double>(word_) : static_cast<double>(word_);
  }
  std::string_view text() const;                             // of a string; the name of an undefined value
  bool is_view() const { return (flags_ & kCounted) == 0; }  // of a string: its characters outlive the rendering
  bool markup() const { return (flags_ & kMarkup) != 0; }
  Absence absence() const { return absence_; }
  Kind owner_kind() const { return owner_kind_; }
  Object* object() const { return std::bit_cast<Object*>(word_); }
  template <class T>
  T& as() const {
    return *static_cast<T*>(object());
  }
  // The part of the input this list or dict shows, or null.
  const Json* json() const { return (flags_ & kJson) ? std::bit_cast<const Json*>(word_) : nullptr; }

  // Lists, tuples and dicts.
  std::size_t size() const;
  Value item(std::size_t index) const;  // of a list or a tuple
  Value key_at(std::size_t index) const;
  Value value_at(std::size_t index) const;
  // Of a dict. Null pointer semantics: returns false where there is no such key.
  bool find(std::string_view key, Value& found) const;
  bool find(Budget& budget, const Value& key, Value& found) const;

  bool truthy() const { return kind_ == Kind::kBool ? word_ != 0 : other_truthy(); }
  std::uint32_t depth() const;
  bool same_object(const Value& other) const {
    return kind_ == other.kind_ && word_ == other.word_ && size_ == other.size_;
  }

 private:
  static constexpr std::uint8_t kCounted = 1;
  static constexpr std::uint8_t kMarkup = 2;
  static constexpr std::uint8_t kJson = 4;

  Value(Kind kind, std::int64_t word) : kind_(kind), word_(word) {}
  void raw_copy(const Value& other) noexcept {
    kind_ = other.kind_;
    flags_ = other.flags_;
    absence_ = other.absence_;
    owner_kind_ = other.owner_kind_;
    size_ = other.size_;
    word_ = other.word_;
  }
  void copy(const Value& other) noexcept {
    raw_copy(other);
    if (flags_ & kCounted) ++object()->references;
  }
  void release() noexcept {
    if (--object()->references == 0) delete object();
  }
  bool other_truthy() const;

  Kind kind_ = Kind::kMissing;
  std::uint8_t flags_ = 0;
  Absence absence_ = Absence::kVariable;
  Kind owner_kind_ = Kind::kMissing;
  std::uint32_t size_ = 0;
  std::int64_t word_ = 0;  // the number, or the address of characters, input or object
};
static_assert(sizeof(Value) == 16);

struct StringObject : Object {
  std::string text;
};

inline std::string_view Value::text() const {
  if (flags_ & kCounted) return static_cast<const StringObject*>(object())->text;
  return {std::bit_cast<const char*>(word_), size_};
}

struct ListObject : Object {  // of lists and tuples
  std::vector<Value> items;
  bool group = false;  // a tuple of groupby: also has .grouper and .list
};

struct DictObject : Object {
  std::vector<std::pair<Value, Value>> items;
};

struct RangeObject : Object {
  std::int64_t start = 0, stop = 0, step = 1;
  std::int64_t count = 0;
};

struct DictViewObject : Object {
  enum class Part { kKeys, kValues, kItems } part = Part::kKeys;
  Value dict;
};

struct GeneratorObject : Object {
  std::function<bool(Value&)> next;  // false at the end
};

struct NamespaceObject : Object {
  std::vector<std::pair<std::string, Value>> attributes;
  void clear() override { attributes.clear(); }
  Value* find(std::string_view name);
  void set(std::string_view name, Value value);
};

struct CyclerObject : Object {
  void clear() override { items.clear(); }

  std::vector<Value> items;
  std::size_t position = 0;
};

struct JoinerObject : Object {
  Value separator;
  bool used = false;
};

Value list_of(Budget& budget, std::vector<Value> items);
Value tuple_of(Budget& budget, std::vector<Value> items);
Value make_generator(const Value& source, std::function<bool(Value&)> next);

// A dict under construction; a repeated key keeps its place and takes the new value.
class DictBuilder {
 public:
  explicit DictBuilder(Budget& budget) : budget_(budget) {}
  void set(Value key, Value value);  // fails where the key is not hashable
  Value finish();

 private:
  Budget& budget_;
  std::vector<std::pair<Value, Value>> items_;
};

// Walks what Python can iterate over.
class Cursor {
 public:
  Cursor() = default;
  // Fails where the value is not iterable.
  Cursor(Budget& budget, Value source);
  bool next(Value& item);
  // Items still to come where that is known without walking, else -1.
  std::int64_t remaining() const;

 private:
  bool next_character(Value& item);
  bool next_of_view(Value& item);

  Budget* budget_ = nullptr;
  Value source_;
  std::size_t index_ = 0;
  std::size_t count_ = 0;
};

bool is_iterable(const Value& value);
std::vector<Value> to_vector(Budget& budget, const Value& iterable);

std::string_view type_name(const Value& value);  // Python's: "str", "NoneType"
std::string undefined_message(const Value& value);
[[noreturn]] void fail_undefined(const Value& value);

bool equal(Budget& budget, const Value& left, const Value& right);
// -1, 0, 1. Fails, naming `symbol`, where Python cannot order the two.
int compare(Budget& budget, const Value& left, const Value& right, std::string_view symbol);
bool contains(Budget& budget, const Value& container, const Value& item);
// Equal hashable values have equal keys. Fails where the value is not hashable.
void append_hash_key(std::string& key, const Value& value);
bool is_hashable(const Value& value);

// Python's str() and repr().
void append_str(Budget& budget, std::string& out, const Value& value);
void append_repr(Budget& budget, std::string& out, const Value& value, int depth = 0);
std::string to_str(Budget& budget, const Value& value);
std::string to_repr(Budget& budget, const Value& value);
void append_float(std::string& out, double value);
void append_string_repr(std::string& out, std::string_view text);

}  // namespace qlora::jinja
