// Names to keys, synonyms to values, one value a key; then the checks.
#include "qlora/core/config.h"

#include <algorithm>
#include <map>

#include <spdlog/fmt/fmt.h>

#include "qlora/core/yaml.h"

namespace qlora {
namespace {

// A key of the command, as one source sets it.
struct Assignment {
  const Key* key;
  const Synonym* synonym;  // null: by its own name
  Given given;
  Value value;  // after a synonym's translation
  bool is_flag;
};

std::string shown(const Value& value) {
  return value.kind == Value::Kind::kScalar ? value.text : value.described();
}

class Application {
 public:
  Application(const CommandKeys& command, const std::vector<CommandKeys>& others, Problems& problems,
              std::vector<std::string>& notes)
      : command_(command), others_(others), problems_(problems), notes_(notes) {}

  std::set<std::string> run(const Settings& settings, void* object) {
    resolve(settings.file, false);
    resolve(settings.flags, true);
    translate_synonyms();
    for (const auto& key : command_.keys->keys) set(*key, object);
    if (problems_.any_wrong()) return {};
    for (const Rule& rule : command_.keys->rules) {
      const std::string message = rule.check(object);
      if (!message.empty()) problems_.wrong(place_of(rule.key), rule.key, message);
    }
    return given_;
  }

 private:
  void resolve(const std::vector<Given>& source, bool is_flag) {
    std::map<std::string, Place> seen;
    for (const Given& given : source) {
      const auto [earlier, is_new] = seen.emplace(given.name, given.place);
      if (!is_new) {
        problems_.wrong(given.place, given.name, "given twice, first at " + earlier->second.text());
        continue;
      }
      const auto [synonym_key, synonym] = command_.keys->find_synonym(given.name);
      if (const Key* key = command_.keys->find(given.name)) {
        assignments_.push_back({key, nullptr, given, given.value, is_flag});
      } else if (synonym_key != nullptr) {
        assignments_.push_back({synonym_key, synonym, given, given.value, is_flag});
      } else {
        check_foreign(given, is_flag);
      }
    }
  }

  // A key of other commands: some of them must take its value; or a key of none.
  void check_foreign(const Given& given, bool is_flag) {
    std::optional<Problems> refusal;
    for (const CommandKeys& other : others_) {
      Problems found;
      const auto [synonym_key, synonym] = other.keys->find_synonym(given.name);
      if (const Key* key = other.keys->find(given.name)) {
        key->canonical(given.value, found);
      } else if (synonym_key != nullptr) {
        Value value = given.value;
        if (!synonym->compute && translate(*synonym_key, *synonym, value, found)) synonym_key->canonical(value, found);
      } else {
        continue;
      }
      found.drop_not_built();
      if (found.empty()) {
        if (is_flag)
          notes_.push_back(
              fmt::format("{}: {} is a key of {}, ignored here", given.place.text(), given.name, other.name));
        return;
      }
      if (!refusal) refusal = found;
    }
    if (refusal) {
      problems_.add(*refusal);
    } else {
      problems_.wrong(given.place, given.name, "unknown key" + suggestion(given.name));
    }
  }

  std::string suggestion(const std::string& name) const {
    std::vector<std::string> candidates = command_.keys->names();
    const auto add_synonyms = [&](const KeySet& keys) {
      for (const auto& key : keys.keys) {
        for (const Synonym& synonym : key->synonyms) candidates.push_back(synonym.name);
      }
    };
    add_synonyms(*command_.keys);
    for (const CommandKeys& other : others_) {
      const std::vector<std::string> names = other.keys->names();
      candidates.insert(candidates.end(), names.begin(), names.end());
      add_synonyms(*other.keys);
    }
    const std::string near = nearest(name, candidates);
    return near.empty() ? "" : "; did you mean " + near + "?";
  }

  // `value` in the synonym's terms becomes one in the key's. False: it sets nothing, or is wrong.
  bool translate(const Key& key, const Synonym& synonym, Value& value, Problems& problems) const {
    if (value.kind == Value::Kind::kNull) return false;
    if (!synonym.compute && synonym.values.empty()) return true;
    std::optional<std::string> text;
    bool known = false;
    if (synonym.compute) {
      text = synonym.compute(value.text, [this](const std::string& name) { return text_of(name); });
      known = text.has_value();
    } else {
      std::tie(known, text) = from_table(synonym.values, value);
    }
    if (!known) problems.wrong(value.place, synonym.name, no_counterpart(key, synonym, value));
    if (!known || !text) return false;
    value = Value::scalar(*text, value.place);
    return true;
  }

  static std::pair<bool, std::optional<std::string>> from_table(const Synonym::Table& table, const Value& value) {
    for (const auto& [theirs, ours] : table) {
      bool a = false, b = false;
      const bool same_truth = text_to(theirs, a) && text_to(value.text, b) && a == b;
      if (value.kind == Value::Kind::kScalar && (theirs == value.text || same_truth)) return {true, ours};
    }
    return {false, std::nullopt};
  }

  static std::string no_counterpart(const Key& key, const Synonym& synonym, const Value& value) {
    std::vector<std::string> known;
    for (const auto& row : synonym.values) known.push_back(row.first);
    const std::string takes = known.empty() ? synonym.meaning : "known are " + joined(known);
    return fmt::format("{} has no counterpart in {} ({})", value.described(), key.name, takes);
  }

  void translate_synonyms() {
    std::vector<Assignment> kept;
    for (Assignment& assignment : assignments_) {
      const Synonym* synonym = assignment.synonym;
      if (synonym != nullptr && !translate(*assignment.key, *synonym, assignment.value, problems_)) continue;
      if (synonym != nullptr) notes_.push_back(note(assignment));
      kept.push_back(assignment);
    }
    assignments_ = std::move(kept);
  }

  static std::string note(const Assignment& assignment) {
    const Synonym& synonym = *assignment.synonym;
    const std::string place = assignment.given.place.text();
    if (synonym.values.empty() && !synonym.compute) {
      return fmt::format("{}: {} is read as {}", place, synonym.name, assignment.key->name);
    }
    return fmt::format("{}: {}: {} is read as {}: {}", place, synonym.name, shown(assignment.given.value),
                       assignment.key->name, shown(assignment.value));
  }

  // A flag beats the file. Within one source, spellings of a key must agree.
  void set(const Key& key, void* object) {
    const Assignment* winner = nullptr;
    for (const Assignment& assignment : assignments_) {
      if (assignment.key != &key) continue;
      if (winner == nullptr) {
        winner = &assignment;
      } else if (assignment.is_flag == winner->is_flag) {
        check_agreement(key, *winner, assignment);
      } else {
        check_overruled(key, *winner);
        winner = &assignment;
      }
    }
    if (winner == nullptr) return;
    key.read(winner->value, object, problems_);
    places_[key.name] = winner->given.place;
    if (winner->value.kind != Value::Kind::kNull) given_.insert(key.name);
  }

  // What is overruled must still be of the right type; it may be something that is not built yet.
  void check_overruled(const Key& key, const Assignment& assignment) {
    Problems found;
    key.canonical(assignment.value, found);
    found.drop_not_built();
    problems_.add(found);
  }

  void check_agreement(const Key& key, const Assignment& first, const Assignment& second) {
    Problems found;
    const Json a = key.canonical(first.value, found), b = key.canonical(second.value, found);
    found.drop_not_built();
    if (found.empty() && a == b) return;
    problems_.wrong(second.given.place, second.given.name,
                    fmt::format("{} disagrees with {}: {} at {}; both set {}", shown(second.given.value),
                                first.given.name, shown(first.given.value), first.given.place.text(), key.name));
  }

  std::string text_of(const std::string& name) const {
    std::string text;
    if (const Key* key = command_.keys->find(name)) text = yaml_line(key->default_json());
    for (const Assignment& assignment : assignments_) {  // flags come last
      if (assignment.key->name == name && assignment.value.kind == Value::Kind::kScalar) text = assignment.value.text;
    }
    return text;
  }

  Place place_of(const std::string& name) const {
    const auto found = places_.find(name);
    return found == places_.end() ? Place() : found->second;
  }

  const CommandKeys& command_;
  const std::vector<CommandKeys>& others_;
  Problems& problems_;
  std::vector<std::string>& notes_;
  std::vector<Assignment> assignments_;
  std::map<std::string, Place> places_;
  std::set<std::string> given_;
};

}  // namespace

std::vector<Given> settings_of(const Value& document, Problems& problems) {
  std::vector<Given> settings;
  if (document.kind != Value::Kind::kMap && document.kind != Value::Kind::kNull) {
    problems.wrong(document.place, "", "expected keys and values, got " + document.described());
  }
  for (const Entry& entry : document.entries) settings.push_back({entry.key, entry.place, entry.value});
  return settings;
}

std::set<std::string> apply(const Settings& settings, const CommandKeys& command,
                            const std::vector<CommandKeys>& others, void* object, Problems& problems,
                            std::vector<std::string>& notes) {
  return Application(command, others, problems, notes).run(settings, object);
}

Json options_json(const KeySet& keys, const void* object) {
  Json json = Json::object();
  for (const auto& key : keys.keys) {
    if (!key->transient) json[key->name] = key->json(object);
  }
  return json;
}

std::string options_yaml(const KeySet& keys, const void* object) {
  std::string yaml, group;
  for (const auto& key : keys.keys) {
    if (key->transient) continue;
    if (key->group != group) yaml += (yaml.empty() ? "# " : "\n# ") + (group = key->group) + "\n";
    yaml += key->name + ": " + yaml_line(key->json(object)) + "\n";
  }
  return yaml;
}

void load_options(const std::filesystem::path& path, const KeySet& keys, void* object) {
  Problems problems;
  std::vector<std::string> notes;
  const Settings settings{settings_of(read_yaml(path), problems), {}};
  apply(settings, {"", &keys}, {}, object, problems, notes);
  problems.raise();
}

}  // namespace qlora
