// How a config value becomes a C++ value and back. A type of one's own takes part by specialising TextForm.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "qlora/core/json.h"
#include "qlora/core/problem.h"
#include "qlora/core/schema_fwd.h"
#include "qlora/core/value.h"

namespace qlora {

class KeySet;
template <class T>
const KeySet& keys_of();
// A struct from a map of its keys (or its shorthand), and back. `path` is what errors name.
bool read_struct(const KeySet& keys, const std::string& path, const Value& value, void* object, Problems& problems);
Json struct_json(const KeySet& keys, const void* object);
std::string struct_type(const KeySet& keys);  // "a path or a map of path, format"

// A struct whose keys are declared: it is read from a map.
template <class T>
concept Declared = std::is_class_v<T> && requires(Schema<T>& schema) {
  declare(schema);
};

// A type that has a form of its own: specialise with
//   static std::string type();                    what it takes, for help and errors
//   static bool read(const Value&, T& value);     false: not of this form
//   static Json json(const T& value);             reads back to the same
//   static constexpr bool kTakesList = false;     true: it may be given as a list
template <class T>
struct CustomForm;

template <class T>
concept HasCustomForm = requires(T& value) {
  CustomForm<T>::read(Value(), value);
};

template <class T>
constexpr bool kTakesList = false;
template <HasCustomForm T>
constexpr bool kTakesList<T> = CustomForm<T>::kTakesList;

// How many leaves a key's type holds, and of which type.
enum class Arity { kOne, kOptional, kMany, kMap };

template <class T>
struct KeyShape {
  using Leaf = T;
  static constexpr Arity kArity = Arity::kOne;
};
template <class T>
struct KeyShape<std::optional<T>> {
  using Leaf = T;
  static constexpr Arity kArity = Arity::kOptional;
};
template <class T>
struct KeyShape<std::vector<T>> {
  using Leaf = T;
  static constexpr Arity kArity = Arity::kMany;
};
template <class T>
struct KeyShape<std::vector<std::pair<std::string, T>>> {
  using Leaf = T;
  static constexpr Arity kArity = Arity::kMap;
};

// One leaf. Enumerations are not here: their names stand in the key (schema.h).
template <class T>
struct Codec {
  static std::string type() {
    if constexpr (std::is_same_v<T, bool>) {
      return "true or false";
    } else if constexpr (std::is_same_v<T, int64_t>) {
      return "a whole number";
    } else if constexpr (std::is_same_v<T, double>) {
      return "a number";
    } else if constexpr (std::is_same_v<T, std::string>) {
      return "text";
    } else if constexpr (std::is_same_v<T, Json>) {
      return "a map";
    } else if constexpr (HasCustomForm<T>) {
      return CustomForm<T>::type();
    } else {
      return struct_type(keys_of<T>());
    }
  }

  // `path` and `type` are what an error names.
  static bool read(const std::string& path, const std::string& type, const Value& given, T& value, Problems& problems) {
    if constexpr (Declared<T>) {
      return read_struct(keys_of<T>(), path, given, &value, problems);
    } else {
      if (parse(given, value)) return true;
      problems.wrong(given.place, path, "expected " + type + ", got " + given.described());
      return false;
    }
  }

  static Json json(const T& value) {
    if constexpr (Declared<T>) {
      return struct_json(keys_of<T>(), &value);
    } else if constexpr (HasCustomForm<T>) {
      return CustomForm<T>::json(value);
    } else {
      return value;
    }
  }

 private:
  static bool parse(const Value& given, T& value) {
    if constexpr (HasCustomForm<T>) {
      return CustomForm<T>::read(given, value);
    } else if constexpr (std::is_same_v<T, Json>) {
      value = open_json(given);
      return value.is_object();
    } else {
      return given.kind == Value::Kind::kScalar && text_to(given.text, value);
    }
  }
};

}  // namespace qlora
