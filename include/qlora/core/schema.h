// One declaration a config key: its name, member, help, bounds or choices, synonyms, and what of it is not built yet.
// Parsing, flags, checks, help, the resolved dump and the reference page all follow from it.
//
//   void declare(Schema<AdapterOptions>& schema) {
//     schema.key("lora_r", &AdapterOptions::lora_r, "Rank of the adapters.").at_least(1).synonyms({"lora_rank",
//     "rank"});
//   }
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "qlora/core/codec.h"

namespace qlora {

// What another key of the same run is set to, as text; its default where it is not given.
using Lookup = std::function<std::string(const std::string& key)>;

// Another name of a key. Its values may differ, too: by a table, or by a function of the text.
struct Synonym {
  using Table = std::vector<std::pair<std::string, std::optional<std::string>>>;  // nullopt: sets nothing
  using Function = std::function<std::optional<std::string>(const std::string& text, const Lookup& lookup)>;

  std::string name;
  Table values;
  Function compute;
  std::string meaning;  // of `compute`, in words
};

// A key without its type: what loading, help and the reference page work with.
class Key {
 public:
  virtual ~Key() = default;

  std::string name;
  std::string group;  // a heading
  std::string help;
  std::string type;                                            // "a whole number"
  std::vector<std::string> choices;                            // empty: any value of the type
  std::vector<std::pair<std::string, std::string>> spellings;  // other spelling -> choice or text
  std::vector<std::string> not_built_choices;
  std::optional<double> low, high;  // bounds of numbers
  bool low_open = false, high_open = false;
  std::vector<Synonym> synonyms;
  bool not_built = false;      // any value but the default is refused
  bool transient = false;      // belongs to one call: no part of the resolved dump
  bool comma_list = true;      // a list given as one text is split at commas
  bool is_bool = false;        // as a flag it may stand alone
  bool is_structured = false;  // as a flag, text that starts with [ or { is YAML
  Arity arity = Arity::kOne;
  const KeySet* parts = nullptr;  // the keys of an entry, where the values are maps of declared keys

  // Reads into the object that the key was declared for; what is wrong goes to `problems`.
  virtual void read(const Value& value, void* object, Problems& problems) const = 0;
  // The JSON of what is read from `value` alone; null where it is wrong.
  virtual Json canonical(const Value& value, Problems& problems) const = 0;
  virtual Json json(const void* object) const = 0;
  virtual Json default_json() const = 0;

  std::string bounds() const;  // "at least 0, below 1"; empty without bounds
  std::vector<Value> list_items(const Value& value) const;

 protected:
  bool check_choice(const std::string& path, const Value& value, Problems& problems) const;
  bool check_bounds(const std::string& path, const Value& value, double number, Problems& problems) const;
  std::string settled_spelling(const std::string& text) const;  // what it means; itself where it is none of `spellings`
  std::string choice_of(const Value& value) const;              // the choice that the text spells, or empty
};

// A check over several keys; its message is reported at `key`.
struct Rule {
  std::string key;
  std::function<std::string(const void* object)> check;  // empty: holds
};

// All keys and rules of a struct, in the order of declaration.
class KeySet {
 public:
  std::vector<std::shared_ptr<Key>> keys;
  std::vector<Rule> rules;
  std::string shorthand;  // the key that a lone scalar sets; empty: none

  const Key* find(const std::string& name) const;
  // The key that has `name` as a synonym, and that synonym. Null where none has, or where a key has that name.
  std::pair<const Key*, const Synonym*> find_synonym(const std::string& name) const;
  // The names of all keys.
  std::vector<std::string> names() const;
};

template <class T>
class TypedKey : public Key {
 public:
  using Leaf = typename KeyShape<T>::Leaf;
  static constexpr Arity kArity = KeyShape<T>::kArity;

  std::function<T&(void*)> at;
  T initial{};                                            // the default
  std::vector<std::pair<std::string, Leaf>> enumerators;  // where Leaf is an enumeration
  std::function<std::string(const Leaf&)> refused;        // the name of a feature that is not built, or empty
  std::function<bool(const Leaf&)> accepts;               // a form of its own, which `type` names

  void read(const Value& value, void* object, Problems& problems) const override {
    if (std::optional<T> parsed = parse(value, problems)) at(object) = std::move(*parsed);
  }
  Json canonical(const Value& value, Problems& problems) const override {
    const std::optional<T> parsed = parse(value, problems);
    return parsed ? shown(*parsed) : Json(nullptr);
  }
  Json json(const void* object) const override { return shown(at(const_cast<void*>(object))); }
  Json default_json() const override { return shown(initial); }

 private:
  std::optional<T> parse(const Value& value, Problems& problems) const {
    if (value.kind == Value::Kind::kNull) return initial;  // a key without a value is a key not given
    T parsed{};
    bool good = true;
    if constexpr (kArity == Arity::kOne) {
      good = parse_leaf(name, value, parsed, problems);
    } else if constexpr (kArity == Arity::kOptional) {
      good = parse_leaf(name, value, parsed.emplace(), problems);
    } else if constexpr (kArity == Arity::kMany) {
      for (const Value& item : list_items(value)) good &= parse_leaf(name, item, parsed.emplace_back(), problems);
    } else {
      good = parse_map(value, parsed, problems);
    }
    if (!good) return std::nullopt;
    if (not_built && shown(parsed) != shown(initial)) problems.not_built(value.place, name, name);
    return parsed;
  }

  bool parse_map(const Value& value, T& parsed, Problems& problems) const {
    if (value.kind != Value::Kind::kMap) {
      problems.wrong(value.place, name, "expected a map from names to " + type + ", got " + value.described());
      return false;
    }
    bool good = true;
    for (const Entry& entry : value.entries) {
      const std::string path = name + "." + entry.key;
      for (const auto& earlier : parsed) {
        if (earlier.first != entry.key) continue;
        problems.wrong(entry.place, path, "given twice");
        good = false;
      }
      good &= parse_leaf(path, entry.value, parsed.emplace_back(entry.key, Leaf{}).second, problems);
    }
    return good;
  }

  bool parse_leaf(const std::string& path, const Value& value, Leaf& leaf, Problems& problems) const {
    if (!choices.empty() && !check_choice(path, value, problems)) return false;
    if constexpr (std::is_enum_v<Leaf>) {
      for (const auto& [text, enumerator] : enumerators) {
        if (text == choice_of(value)) leaf = enumerator;
      }
    } else {
      if (!Codec<Leaf>::read(path, type, value, leaf, problems)) return false;
      if constexpr (std::is_same_v<Leaf, std::string>) leaf = settled_spelling(leaf);
      if (accepts && !accepts(leaf)) {
        problems.wrong(value.place, path, "expected " + type + ", got " + value.described());
        return false;
      }
    }
    if constexpr (std::is_same_v<Leaf, int64_t> || std::is_same_v<Leaf, double>) {
      if (!check_bounds(path, value, static_cast<double>(leaf), problems)) return false;
    }
    const std::string feature = refused ? refused(leaf) : "";
    if (!feature.empty()) problems.not_built(value.place, path, feature);
    return true;
  }

  Json shown_leaf(const Leaf& leaf) const {
    if constexpr (std::is_enum_v<Leaf>) {
      for (const auto& [text, enumerator] : enumerators) {
        if (enumerator == leaf) return text;
      }
      return nullptr;
    } else {
      return Codec<Leaf>::json(leaf);
    }
  }

  Json shown(const T& value) const {
    if constexpr (kArity == Arity::kOne) {
      return shown_leaf(value);
    } else if constexpr (kArity == Arity::kOptional) {
      return value ? shown_leaf(*value) : Json(nullptr);
    } else if constexpr (kArity == Arity::kMany) {
      Json list = Json::array();
      for (const Leaf& leaf : value) list.push_back(shown_leaf(leaf));
      return list;
    } else {
      Json map = Json::object();
      for (const auto& [key, leaf] : value) map[key] = shown_leaf(leaf);
      return map;
    }
  }
};

// What follows `schema.key(...)`: everything about one key, in words.
template <class T>
class KeyBuilder {
 public:
  using Leaf = typename TypedKey<T>::Leaf;
  explicit KeyBuilder(TypedKey<T>& key) : key_(key) {}

  KeyBuilder& at_least(double low) { return key_.low = low, *this; }
  KeyBuilder& above(double low) { return key_.low_open = true, at_least(low); }
  KeyBuilder& at_most(double high) { return key_.high = high, *this; }
  KeyBuilder& below(double high) { return key_.high_open = true, at_most(high); }

  KeyBuilder& choices(std::vector<std::pair<std::string, Leaf>> enumerators) {
    for (const auto& choice : enumerators) key_.choices.push_back(choice.first);
    return key_.enumerators = std::move(enumerators), *this;
  }
  KeyBuilder& one_of(const std::vector<std::string>& texts) { return key_.choices = texts, *this; }
  // Further spellings of choices, or of texts that mean something: {"bf16", "bfloat16"}.
  KeyBuilder& spelt(const std::vector<std::pair<std::string, std::string>>& spellings) {
    return key_.spellings = spellings, *this;
  }
  // A form that the text must have; `words` say which.
  KeyBuilder& form(const std::string& words, std::function<bool(const Leaf&)> accepts) {
    return key_.type = words, key_.accepts = std::move(accepts), *this;
  }

  KeyBuilder& synonyms(const std::vector<std::string>& names) {
    for (const std::string& name : names) key_.synonyms.push_back({name, {}, {}, {}});
    return *this;
  }
  KeyBuilder& synonym(std::string name, Synonym::Table values) {
    return key_.synonyms.push_back({std::move(name), std::move(values), {}, {}}), *this;
  }
  KeyBuilder& synonym(std::string name, std::string meaning, Synonym::Function compute) {
    return key_.synonyms.push_back({std::move(name), {}, std::move(compute), std::move(meaning)}), *this;
  }

  // The refusals. To build a feature is to delete its line.
  KeyBuilder& not_built_yet() { return key_.not_built = true, *this; }
  KeyBuilder& not_built_yet(const std::vector<std::string>& choices) { return key_.not_built_choices = choices, *this; }
  KeyBuilder& not_built_yet_where(std::function<std::string(const Leaf&)> refused) {
    return key_.refused = std::move(refused), *this;
  }

  KeyBuilder& transient() { return key_.transient = true, *this; }
  KeyBuilder& no_commas() { return key_.comma_list = false, *this; }

 private:
  TypedKey<T>& key_;
};

// Which keys of a group a command takes: all but `without`, or `only` these where it is not empty.
struct Selection {
  std::vector<std::string> without = {};
  std::vector<std::string> only = {};
  bool takes(const std::string& name) const;
};

// Collects the keys of T. A schema of a part writes into the same key set as the whole's.
template <class T>
class Schema {
 public:
  using Self = std::function<T*(void*)>;
  Schema(KeySet& keys, Self self, std::string group = "", Selection selection = {})
      : keys_(keys), self_(std::move(self)), group_(std::move(group)), selection_(std::move(selection)) {}

  template <class M>
  KeyBuilder<M> key(const std::string& name, M T::*member, const std::string& help) {
    auto key = std::make_shared<TypedKey<M>>();
    key->name = name;
    key->group = group_;
    key->help = help;
    key->initial = T{}.*member;
    key->at = [self = self_, member](void* object) -> M& { return self(object)->*member; };
    using Leaf = typename KeyShape<M>::Leaf;
    key->arity = KeyShape<M>::kArity;
    key->is_bool = std::is_same_v<Leaf, bool> && key->arity != Arity::kMany;
    key->is_structured = key->arity == Arity::kMany || key->arity == Arity::kMap || Declared<Leaf> ||
                         std::is_same_v<Leaf, Json> || kTakesList<Leaf>;
    if constexpr (!std::is_enum_v<Leaf>) key->type = Codec<Leaf>::type();
    if constexpr (Declared<Leaf>) key->parts = &keys_of<Leaf>();
    if (selection_.takes(name)) keys_.keys.push_back(key);
    last_ = key;
    return KeyBuilder<M>(*key);
  }

  // Takes the keys of a part in.
  template <class M>
  void group(const std::string& title, M T::*member, Selection selection = {}) {
    Schema<M> part(
        keys_, [self = self_, member](void* object) { return &(self(object)->*member); }, title, std::move(selection));
    declare(part);
  }

  // A check over several keys of T: an empty message where it holds.
  void rule(const std::string& key, std::function<std::string(const T&)> check) {
    if (!selection_.takes(key)) return;
    keys_.rules.push_back({key, [self = self_, check = std::move(check)](const void* object) {
                             return check(*self(const_cast<void*>(object)));
                           }});
  }

  void shorthand(const std::string& key) { keys_.shorthand = key; }

 private:
  KeySet& keys_;
  Self self_;
  std::string group_;
  Selection selection_;
  std::shared_ptr<Key> last_;  // keeps a key alive that the selection leaves out, while it is being declared
};

// The keys of a struct; made once.
template <class T>
const KeySet& keys_of() {
  static const KeySet keys = [] {
    KeySet made;
    Schema<T> schema(made, [](void* object) { return static_cast<T*>(object); });
    declare(schema);
    return made;
  }();
  return keys;
}

}  // namespace qlora
