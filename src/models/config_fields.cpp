#include "qlora/models/config_fields.h"

#include <fmt/format.h>

namespace qlora {

ConfigFields::ConfigFields(const Json& json, std::string origin) : json_(json), origin_(std::move(origin)) {
  if (!json.is_object()) throw DataError(fmt::format("{}: is not a JSON object", origin_));
}

std::optional<ConfigFields::Json> ConfigFields::object(const char* key) const {
  const auto it = json_.find(key);
  if (it == json_.end() || it->is_null()) return std::nullopt;
  if (!it->is_object()) throw wrong_type(key, "an object", *it);
  return *it;
}

template <typename T>
std::optional<std::vector<T>> ConfigFields::list(const char* key, const char* wanted, bool (*fits)(const Json&)) const {
  const auto it = json_.find(key);
  if (it == json_.end() || it->is_null()) return std::nullopt;
  if (!it->is_array()) throw wrong_type(key, wanted, *it);
  std::vector<T> values;
  for (const Json& item : *it) {
    if (!fits(item)) throw wrong_type(key, wanted, *it);
    values.push_back(item.get<T>());
  }
  return values;
}

std::optional<std::vector<double>> ConfigFields::numbers(const char* key) const {
  return list<double>(key, "a list of numbers", [](const Json& item) { return item.is_number(); });
}

std::optional<std::vector<std::string>> ConfigFields::strings(const char* key) const {
  return list<std::string>(key, "a list of strings", [](const Json& item) { return item.is_string(); });
}

std::int64_t ConfigFields::size(const char* key, std::optional<std::int64_t> otherwise) const {
  const auto value = find<std::int64_t>(key);
  if (!value && otherwise) return *otherwise;
  if (!value) throw DataError(fmt::format("{}: '{}' is missing", origin_, key));
  if (*value < 1 || *value > (std::int64_t{1} << 31)) {
    throw DataError(fmt::format("{}: '{}' is {}: not a size", origin_, key, *value));
  }
  return *value;
}

std::optional<double> ConfigFields::positive(const char* key) const {
  const auto value = find<double>(key);
  if (value && !(*value > 0.0)) throw DataError(fmt::format("{}: '{}' is {}: must be above 0", origin_, key, *value));
  return value;
}

double ConfigFields::positive(const char* key, double otherwise) const {
  return positive(key).value_or(otherwise);
}

DataError ConfigFields::wrong_type(const char* key, const char* wanted, const Json& value) const {
  return DataError(fmt::format("{}: '{}' must be {}, is {}", origin_, key, wanted, value.dump()));
}

}  // namespace qlora
