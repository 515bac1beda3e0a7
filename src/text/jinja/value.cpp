// The value type of templates: construction, access, iteration.
#include "qlora/text/jinja/value.h"

#include <bit>
#include <limits>
#include <unordered_set>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "qlora/text/jinja/unicode.h"

namespace qlora::jinja {

void fail(const std::string& message) {
  throw Failure(message);
}

void Budget::fail_steps() {
  fail(fmt::format("the template took more than {} steps", kSteps));
}

void Budget::fail_bytes() {
  fail(fmt::format("the template made more than {} MiB of strings and lists", kBytes >> 20));
}

Value Value::number(double value) {
  return Value(Kind::kFloat, std::bit_cast<std::int64_t>(value));
}

Value Value::view(std::string_view text, bool markup) {
  if (text.size() > std::numeric_limits<std::uint32_t>::max()) fail("a string is longer than 4 GiB");
  Value value(Kind::kString, std::bit_cast<std::int64_t>(text.data()));
  value.size_ = static_cast<std::uint32_t>(text.size());
  value.flags_ = markup ? kMarkup : 0;
  return value;
}

Value Value::string(Budget& budget, std::string text, bool markup) {
  budget.bytes(text.size());
  auto* object = new StringObject;
  object->text = std::move(text);
  Value value = counted(Kind::kString, object);
  if (markup) value.flags_ |= kMarkup;
  return value;
}

Value Value::of(const Json& json) {
  if (const auto* text = json.get_ptr<const std::string*>()) return view(*text);
  switch (json.type()) {
    case Json::value_t::null:
      return none();
    case Json::value_t::boolean:
      return boolean(json.get<bool>());
    case Json::value_t::number_integer:
      return integer(json.get<std::int64_t>());
    case Json::value_t::number_unsigned: {
      const auto unsigned_value = json.get<std::uint64_t>();
      if (unsigned_value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
        fail(fmt::format("the integer {} needs more than 64 bits", unsigned_value));
      }
      return integer(static_cast<std::int64_t>(unsigned_value));
    }
    case Json::value_t::number_float:
      return number(json.get<double>());
    case Json::value_t::array:
    case Json::value_t::object: {
      Value value(json.is_array() ? Kind::kList : Kind::kDict, std::bit_cast<std::int64_t>(&json));
      value.flags_ = kJson;
      return value;
    }
    default:
      fail("the input holds a value that JSON has no notation for");
  }
}

Value Value::counted(Kind kind, Object* object) {
  Value value(kind, std::bit_cast<std::int64_t>(object));
  value.flags_ = kCounted;
  ++object->references;
  return value;
}

Value Value::pinned(Kind kind, Object* object) {
  return Value(kind, std::bit_cast<std::int64_t>(object));
}

Value Value::undefined(Absence absence, std::string_view name, Kind owner) {
  Value value(Kind::kUndefined, std::bit_cast<std::int64_t>(name.data()));
  value.size_ = static_cast<std::uint32_t>(name.size());
  value.absence_ = absence;
  value.owner_kind_ = owner;
  return value;
}

std::size_t Value::size() const {
  if (const Json* view = json()) return view->size();
  if (kind_ == Kind::kDict) return as<DictObject>().items.size();
  return as<ListObject>().items.size();
}

Value Value::item(std::size_t index) const {
  if (const Json* view = json()) return of(view->get_ref<const Json::array_t&>()[index]);
  return as<ListObject>().items[index];
}

Value Value::key_at(std::size_t index) const {
  if (const Json* view = json())
    return Value::view(view->get_ref<const Json::object_t&>().begin()[static_cast<std::ptrdiff_t>(index)].first);
  return as<DictObject>().items[index].first;
}

Value Value::value_at(std::size_t index) const {
  if (const Json* view = json())
    return of(view->get_ref<const Json::object_t&>().begin()[static_cast<std::ptrdiff_t>(index)].second);
  return as<DictObject>().items[index].second;
}

bool Value::find(std::string_view key, Value& found) const {
  if (const Json* view = json()) {
    for (const auto& [name, value] : view->get_ref<const Json::object_t&>()) {
      if (name == key) {
        found = of(value);
        return true;
      }
    }
    return false;
  }
  for (const auto& [name, value] : as<DictObject>().items) {
    if (name.is_string() && name.text() == key) {
      found = value;
      return true;
    }
  }
  return false;
}

bool Value::find(Budget& budget, const Value& key, Value& found) const {
  budget.step(static_cast<std::int64_t>(size() / 16));
  if (key.is_string()) return find(key.text(), found);
  if (json()) return false;
  for (const auto& [name, value] : as<DictObject>().items) {
    if (equal(budget, name, key)) {
      found = value;
      return true;
    }
  }
  return false;
}

bool Value::other_truthy() const {
  switch (kind_) {
    case Kind::kMissing:
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
    case Kind::kInt:
      return word_ != 0;
    case Kind::kFloat:
      return as_number() != 0.0;
    case Kind::kString:
      return !text().empty();
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kDict:
      return size() != 0;
    case Kind::kRange:
      return as<RangeObject>().count != 0;
    case Kind::kDictView:
      return as<DictViewObject>().dict.size() != 0;
    default:
      return true;
  }
}

std::uint32_t Value::depth() const {
  return (flags_ & kCounted) ? object()->depth : 1;
}

namespace {

void deepen(Object& object, const Value& part) {
  object.depth = std::max(object.depth, part.depth() + 1);
  if (object.depth > Budget::kNesting) fail(fmt::format("values are nested deeper than {}", Budget::kNesting));
}

Value make_sequence(Budget& budget, Kind kind, std::vector<Value> items) {
  budget.bytes(items.size() * sizeof(Value) + sizeof(ListObject));
  budget.step(static_cast<std::int64_t>(items.size() / 8));
  auto* object = new ListObject;
  object->items = std::move(items);
  Value value = Value::counted(kind, object);
  for (const Value& item : object->items) deepen(*object, item);
  return value;
}

}  // namespace

Value list_of(Budget& budget, std::vector<Value> items) {
  return make_sequence(budget, Kind::kList, std::move(items));
}

Value tuple_of(Budget& budget, std::vector<Value> items) {
  return make_sequence(budget, Kind::kTuple, std::move(items));
}

Value make_generator(const Value& source, std::function<bool(Value&)> next) {
  auto* object = new GeneratorObject;
  object->next = std::move(next);
  Value value = Value::counted(Kind::kGenerator, object);
  deepen(*object, source);
  return value;
}

Value* NamespaceObject::find(std::string_view name) {
  for (auto& [key, value] : attributes) {
    if (key == name) return &value;
  }
  return nullptr;
}

void NamespaceObject::set(std::string_view name, Value value) {
  if (Value* slot = find(name)) {
    *slot = std::move(value);
  } else {
    attributes.emplace_back(name, std::move(value));
  }
}

void DictBuilder::set(Value key, Value value) {
  if (!is_hashable(key)) fail(fmt::format("unhashable type: '{}'", type_name(key)));
  budget_.step(static_cast<std::int64_t>(1 + items_.size() / 16));
  for (auto& [name, old] : items_) {
    if (equal(budget_, name, key)) {
      old = std::move(value);
      return;
    }
  }
  items_.emplace_back(std::move(key), std::move(value));
}

Value DictBuilder::finish() {
  budget_.bytes(items_.size() * 2 * sizeof(Value) + sizeof(DictObject));
  auto* object = new DictObject;
  object->items = std::move(items_);
  Value value = Value::counted(Kind::kDict, object);
  for (const auto& [key, part] : object->items) deepen(*object, part);
  return value;
}

bool is_iterable(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kString:
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kDict:
    case Kind::kRange:
    case Kind::kDictView:
    case Kind::kGenerator:
    case Kind::kLoop:
      return true;
    default:
      return false;
  }
}

Cursor::Cursor(Budget& budget, Value source) : budget_(&budget), source_(std::move(source)) {
  switch (source_.kind()) {
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kDict:
      count_ = source_.size();
      break;
    case Kind::kRange:
      count_ = static_cast<std::size_t>(source_.as<RangeObject>().count);
      break;
    case Kind::kDictView:
      count_ = source_.as<DictViewObject>().dict.size();
      break;
    case Kind::kString:
    case Kind::kUndefined:
    case Kind::kGenerator:
      break;
    default:
      fail(fmt::format("'{}' object is not iterable", type_name(source_)));
  }
}

bool Cursor::next(Value& item) {
  budget_->step();
  switch (source_.kind()) {
    case Kind::kList:
    case Kind::kTuple:
      if (index_ >= count_) return false;
      item = source_.item(index_++);
      return true;
    case Kind::kDict:
      if (index_ >= count_) return false;
      item = source_.key_at(index_++);
      return true;
    case Kind::kRange: {
      if (index_ >= count_) return false;
      const auto& range = source_.as<RangeObject>();
      item = Value::integer(range.start + static_cast<std::int64_t>(index_++) * range.step);
      return true;
    }
    case Kind::kDictView:
      return next_of_view(item);
    case Kind::kString:
      return next_character(item);
    case Kind::kGenerator:
      return source_.as<GeneratorObject>().next(item);
    default:
      return false;
  }
}

bool Cursor::next_character(Value& item) {
  const std::string_view text = source_.text();
  if (index_ >= text.size()) return false;
  const std::size_t length = unicode::sequence_length(text, index_);
  const std::string_view character = text.substr(index_, length);
  item = source_.is_view() ? Value::view(character) : Value::string(*budget_, std::string(character));
  index_ += length;
  return true;
}

bool Cursor::next_of_view(Value& item) {
  if (index_ >= count_) return false;
  const auto& view = source_.as<DictViewObject>();
  const std::size_t index = index_++;
  if (view.part == DictViewObject::Part::kKeys) {
    item = view.dict.key_at(index);
  } else if (view.part == DictViewObject::Part::kValues) {
    item = view.dict.value_at(index);
  } else {
    item = tuple_of(*budget_, {view.dict.key_at(index), view.dict.value_at(index)});
  }
  return true;
}

std::int64_t Cursor::remaining() const {
  if (source_.is_string()) {
    return static_cast<std::int64_t>(unicode::length(source_.text().substr(index_)));
  }
  if (source_.is_undefined()) return 0;
  return source_.is(Kind::kGenerator) ? -1 : static_cast<std::int64_t>(count_ - index_);
}

std::vector<Value> to_vector(Budget& budget, const Value& iterable) {
  Cursor cursor(budget, iterable);
  std::vector<Value> items;
  if (iterable.is_sequence()) items.reserve(iterable.size());
  for (Value item; cursor.next(item);) {
    budget.bytes(sizeof(Value));
    items.push_back(item);
  }
  return items;
}

}  // namespace qlora::jinja
