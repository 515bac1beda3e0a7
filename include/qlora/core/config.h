// From a config file and flags to a command's options: names resolved, values checked, all problems reported at once.
#pragma once

#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "qlora/core/problem.h"
#include "qlora/core/schema.h"
#include "qlora/core/value.h"

namespace qlora {

// A command as its config sees it.
struct CommandKeys {
  std::string name;
  const KeySet* keys;
};

// One key as it was written in a source.
struct Given {
  std::string name;
  Place place;
  Value value;
};

// The settings of one run, in the order they were written. Flags win over the file.
struct Settings {
  std::vector<Given> file;
  std::vector<Given> flags;
};

// The keys of a config file, with duplicates. A file that is not a map goes to `problems`.
std::vector<Given> settings_of(const Value& document, Problems& problems);

// Reads `settings` into `object`, whose keys are those of `command`. Keys of the `others` are checked and otherwise
// ignored. Notes say which synonyms stood for which keys. Rules are checked where nothing is wrong. Returns the names
// of the keys that were set, be it to their default.
std::set<std::string> apply(const Settings& settings, const CommandKeys& command,
                            const std::vector<CommandKeys>& others, void* object, Problems& problems,
                            std::vector<std::string>& notes);

// The resolved options as a JSON object, without what belongs to one call alone.
Json options_json(const KeySet& keys, const void* object);
// The same as a config file that loads back to it.
std::string options_yaml(const KeySet& keys, const void* object);

template <class T>
Json to_json(const T& options) {
  return options_json(keys_of<T>(), &options);
}

template <class T>
std::string to_yaml(const T& options) {
  return options_yaml(keys_of<T>(), &options);
}

// The keys in which two resolved sets of options differ.
template <class T>
std::vector<std::string> changed_keys(const T& before, const T& after) {
  std::vector<std::string> changed;
  const Json b = to_json(before), a = to_json(after);
  for (const auto& [key, value] : b.items()) {
    if (a.at(key) != value) changed.push_back(key);
  }
  return changed;
}

// One config file, which holds keys of these options alone (a resolved dump). Throws UsageError with all problems.
void load_options(const std::filesystem::path& path, const KeySet& keys, void* object);

template <class T>
T load_options(const std::filesystem::path& path) {
  T options{};
  load_options(path, keys_of<T>(), &options);
  return options;
}

}  // namespace qlora
