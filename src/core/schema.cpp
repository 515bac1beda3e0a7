// What keys share whatever their type, and structs as maps of keys.
#include "qlora/core/schema.h"

#include <algorithm>

#include <spdlog/fmt/fmt.h>

namespace qlora {
namespace {

bool contains(const std::vector<std::string>& words, const std::string& word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

}  // namespace

std::string Key::bounds() const {
  std::vector<std::string> limits;
  if (low) limits.push_back(fmt::format("{} {}", low_open ? "above" : "at least", *low));
  if (high) limits.push_back(fmt::format("{} {}", high_open ? "below" : "at most", *high));
  return joined(limits);
}

std::vector<Value> Key::list_items(const Value& value) const {
  if (value.kind == Value::Kind::kList) return value.items;
  if (value.kind != Value::Kind::kScalar || !comma_list) return {value};
  std::vector<Value> items;
  for (const std::string& text : split_at_commas(value.text)) items.push_back(Value::scalar(text, value.place));
  return items;
}

std::string Key::settled_spelling(const std::string& text) const {
  for (const auto& [spelling, meant] : spellings) {
    if (spelling == text) return meant;
  }
  return text;
}

std::string Key::choice_of(const Value& value) const {
  if (value.kind != Value::Kind::kScalar) return "";
  std::string text = settled_spelling(value.text);
  if (contains(choices, text)) return text;
  // YAML writers turn no into false, and true has many spellings.
  bool truth = false;
  if (!text_to(value.text, truth)) return "";
  for (const std::string& choice : choices) {
    bool meant = false;
    if (text_to(choice, meant) && meant == truth) return choice;
  }
  return "";
}

bool Key::check_choice(const std::string& path, const Value& value, Problems& problems) const {
  const std::string choice = choice_of(value);
  if (choice.empty()) {
    const std::string near = value.kind == Value::Kind::kScalar ? nearest(value.text, choices) : "";
    problems.wrong(value.place, path,
                   fmt::format("expected one of {}, got {}{}", joined(choices), value.described(),
                               near.empty() ? "" : "; did you mean " + near + "?"));
    return false;
  }
  if (contains(not_built_choices, choice)) problems.not_built(value.place, path, choice);
  return true;
}

bool Key::check_bounds(const std::string& path, const Value& value, double number, Problems& problems) const {
  const bool too_low = low && (low_open ? number <= *low : number < *low);
  const bool too_high = high && (high_open ? number >= *high : number > *high);
  if (!too_low && !too_high) return true;
  problems.wrong(value.place, path, fmt::format("{} is out of range: {}", value.text, bounds()));
  return false;
}

const Key* KeySet::find(const std::string& name) const {
  for (const auto& key : keys) {
    if (key->name == name) return key.get();
  }
  return nullptr;
}

std::pair<const Key*, const Synonym*> KeySet::find_synonym(const std::string& name) const {
  if (find(name) != nullptr) return {nullptr, nullptr};
  for (const auto& key : keys) {
    for (const Synonym& synonym : key->synonyms) {
      if (synonym.name == name) return {key.get(), &synonym};
    }
  }
  return {nullptr, nullptr};
}

std::vector<std::string> KeySet::names() const {
  std::vector<std::string> names;
  for (const auto& key : keys) names.push_back(key->name);
  return names;
}

bool Selection::takes(const std::string& name) const {
  return contains(only, name) || (only.empty() && !contains(without, name));
}

bool read_struct(const KeySet& keys, const std::string& path, const Value& value, void* object, Problems& problems) {
  Value map = value;
  if (value.kind == Value::Kind::kScalar && !keys.shorthand.empty()) {
    map = Value{Value::Kind::kMap, "", false, {}, {{keys.shorthand, value.place, value}}, value.place};
  }
  if (map.kind != Value::Kind::kMap) {
    problems.wrong(value.place, path, fmt::format("expected {}, got {}", struct_type(keys), value.described()));
    return false;
  }
  Problems found;
  std::vector<std::string> seen;
  for (const Entry& entry : map.entries) {
    const Key* key = keys.find(entry.key);
    if (key == nullptr) {
      const std::string near = nearest(entry.key, keys.names());
      const std::string hint = near.empty() ? "known are " + joined(keys.names()) : "did you mean " + near + "?";
      found.wrong(entry.place, entry.key, "unknown key; " + hint);
    } else if (contains(seen, entry.key)) {
      found.wrong(entry.place, entry.key, "given twice");
    } else {
      key->read(entry.value, object, found);
    }
    seen.push_back(entry.key);
  }
  problems.add(found, path + ".");
  return !found.any_wrong();
}

std::string struct_type(const KeySet& keys) {
  const std::string map = "a map of " + joined(keys.names());
  return keys.shorthand.empty() ? map : fmt::format("a {} or {}", keys.shorthand, map);
}

Json struct_json(const KeySet& keys, const void* object) {
  Json map = Json::object();
  for (const auto& key : keys.keys) {
    const Json value = key->json(object);
    if (value != key->default_json()) map[key->name] = value;
  }
  if (map.size() == 1 && map.contains(keys.shorthand)) return map[keys.shorthand];
  return map;
}

}  // namespace qlora
