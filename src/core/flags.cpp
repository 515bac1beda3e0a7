// Arguments to settings. Only what a flag's value may be is looked up in the keys; its meaning is config.cpp's.
// CLI11 was tried: it stops at the first error where all are wanted, and takes what follows a flag for its value, be it
// the next flag or, after a truth value that stands alone, the next key=value.
#include "qlora/core/flags.h"

#include <algorithm>

#include "qlora/core/error.h"
#include "qlora/core/yaml.h"

namespace qlora {
namespace {

bool is_flag(const std::string& argument) {
  return argument.size() > 2 && argument.starts_with("--");
}

class FlagParser {
 public:
  FlagParser(const std::vector<std::string>& arguments, const CommandKeys& command,
             const std::vector<CommandKeys>& others, Problems& problems)
      : arguments_(arguments), command_(command), others_(others), problems_(problems) {}

  Flags parse() {
    while (next_ < arguments_.size()) parse_one(arguments_[next_++]);
    return std::move(flags_);
  }

 private:
  void parse_one(const std::string& argument) {
    if (argument == "--help" || argument == "-h") {
      flags_.help = true;
    } else if (argument == "--set") {
      const std::optional<std::string> setting = take_value(argument);
      if (setting) parse_pair(*setting, argument);
    } else if (is_flag(argument)) {
      parse_flag(argument.substr(2));
    } else {
      parse_pair(argument, argument);
    }
  }

  void parse_pair(const std::string& text, const std::string& shown) {
    const size_t equals = text.find('=');
    if (equals == 0 || equals == std::string::npos) {
      problems_.wrong({shown}, "", text == shown ? "expected a flag or key=value" : "expected key=value, got " + text);
      return;
    }
    add(text.substr(0, equals), text.substr(equals + 1));
  }

  void parse_flag(const std::string& text) {
    const size_t equals = text.find('=');
    if (equals != std::string::npos) return add(text.substr(0, equals), text.substr(equals + 1));
    const std::string name = spelt(text);
    const Key* key = find(name);
    if (key == nullptr && name != "config") {
      // Its value, if it has one, is not to be reported a second time.
      const bool has_value = next_ < arguments_.size() && !arguments_[next_].starts_with("-") &&
                             arguments_[next_].find('=') == std::string::npos;
      return add(name, has_value ? arguments_[next_++] : "");
    }
    if (key != nullptr && key->is_bool && !bool_follows()) return add(name, "true");
    const std::optional<std::string> value = take_value("--" + text);
    if (value) add(name, *value);
  }

  bool bool_follows() const {
    bool value = false;
    return next_ < arguments_.size() && text_to(arguments_[next_], value);
  }

  std::optional<std::string> take_value(const std::string& flag) {
    if (next_ < arguments_.size() && !is_flag(arguments_[next_])) return arguments_[next_++];
    problems_.wrong({flag}, "", "needs a value");
    return std::nullopt;
  }

  static std::string spelt(std::string name) {
    std::replace(name.begin(), name.end(), '-', '_');
    return name;
  }

  const Key* find(const std::string& name) const {
    if (const Key* key = find_in(command_, name)) return key;
    for (const CommandKeys& other : others_) {
      if (const Key* key = find_in(other, name)) return key;
    }
    return nullptr;
  }

  static const Key* find_in(const CommandKeys& command, const std::string& name) {
    const Key* key = command.keys->find(name);
    return key != nullptr ? key : command.keys->find_synonym(name).first;
  }

  void add(const std::string& raw_name, const std::string& text) {
    const std::string name = spelt(raw_name);
    if (name == "config") {
      flags_.config = text;
      return;
    }
    const Key* key = find(name);
    const Place place{"--" + name};
    Value value = Value::scalar(text, place);
    if (key != nullptr && key->is_structured && (text.starts_with("[") || text.starts_with("{"))) {
      if (!parse_structure(text, place, value)) return;
    } else if (key != nullptr && key->arity == Arity::kOptional && text == "null") {
      value = Value();
      value.place = place;
    }
    merge({name, place, value}, key);
  }

  bool parse_structure(const std::string& text, const Place& place, Value& value) {
    try {
      value = parse_yaml(text, place.source);
      return true;
    } catch (const UsageError& error) {
      problems_.wrong({}, "", error.what());
      return false;
    }
  }

  // The last of a key's flags counts; those of a list add up.
  void merge(Given given, const Key* key) {
    for (Given& earlier : flags_.settings) {
      if (earlier.name != given.name) continue;
      if (key != nullptr && key->arity == Arity::kMany) {
        Value list;
        list.kind = Value::Kind::kList;
        list.place = given.place;
        for (const Value* part : {&earlier.value, &given.value}) {
          const std::vector<Value> items = key->list_items(*part);
          list.items.insert(list.items.end(), items.begin(), items.end());
        }
        given.value = std::move(list);
      }
      earlier = std::move(given);
      return;
    }
    flags_.settings.push_back(std::move(given));
  }

  const std::vector<std::string>& arguments_;
  const CommandKeys& command_;
  const std::vector<CommandKeys>& others_;
  Problems& problems_;
  size_t next_ = 0;
  Flags flags_;
};

}  // namespace

Flags parse_flags(const std::vector<std::string>& arguments, const CommandKeys& command,
                  const std::vector<CommandKeys>& others, Problems& problems) {
  return FlagParser(arguments, command, others, problems).parse();
}

}  // namespace qlora
