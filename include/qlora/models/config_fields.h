// Typed look-ups in a config.json that name file and field in errors; a field that is null counts as absent.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include <nlohmann/json.hpp>

#include "qlora/core/error.h"

namespace qlora {

class ConfigFields {
 public:
  using Json = nlohmann::ordered_json;

  // Throws DataError where `json` is no object. `json` must outlive this.
  ConfigFields(const Json& json, std::string origin);

  // All throw DataError for a value of the wrong type.
  template <typename T>
  std::optional<T> find(const char* key) const {
    const auto it = json_.find(key);
    if (it == json_.end() || it->is_null()) return std::nullopt;
    if constexpr (std::is_same_v<T, bool>) {
      if (!it->is_boolean()) throw wrong_type(key, "true or false", *it);
    } else if constexpr (std::is_same_v<T, std::string>) {
      if (!it->is_string()) throw wrong_type(key, "a string", *it);
    } else if constexpr (std::is_integral_v<T>) {
      if (!it->is_number_integer()) throw wrong_type(key, "a whole number", *it);
    } else {
      static_assert(std::is_floating_point_v<T>);
      if (!it->is_number()) throw wrong_type(key, "a number", *it);
    }
    return it->get<T>();
  }
  bool flag(const char* key, bool otherwise) const { return find<bool>(key).value_or(otherwise); }
  bool has(const char* key) const { return json_.contains(key); }  // also as null
  std::optional<Json> object(const char* key) const;
  std::optional<std::vector<double>> numbers(const char* key) const;
  std::optional<std::vector<std::string>> strings(const char* key) const;

  // A whole number from 1 on. Throws DataError where it is missing and no other is given.
  std::int64_t size(const char* key, std::optional<std::int64_t> otherwise = std::nullopt) const;
  double positive(const char* key, double otherwise) const;
  std::optional<double> positive(const char* key) const;

  const std::string& origin() const { return origin_; }

 private:
  DataError wrong_type(const char* key, const char* wanted, const Json& value) const;
  template <typename T>
  std::optional<std::vector<T>> list(const char* key, const char* wanted, bool (*fits)(const Json&)) const;

  const Json& json_;
  std::string origin_;
};

}  // namespace qlora
