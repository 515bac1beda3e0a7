// Keys in words: one text a key, laid out for a terminal or as Markdown.
#include "qlora/core/describe.h"

#include <algorithm>

#include <spdlog/fmt/fmt.h>

#include "qlora/core/yaml.h"

namespace qlora {
namespace {

std::string values_of(const Key& key) {
  if (!key.choices.empty()) {
    const std::string choices = joined(key.choices, " | ");
    return key.arity == Arity::kMany ? "a list of " + choices : choices;
  }
  std::string type = key.type;
  if (key.arity == Arity::kMany) type = "a list: " + type;
  if (key.arity == Arity::kMap) type = "a map from names to " + type;
  const std::string bounds = key.bounds();
  return bounds.empty() ? type : type + ", " + bounds;
}

std::string default_of(const Key& key) {
  const Json value = key.default_json();
  const bool is_empty = value.is_null() || value == Json("") || (value.is_structured() && value.empty());
  return is_empty ? "" : yaml_line(value);
}

std::string synonym_text(const Synonym& synonym) {
  if (synonym.compute) return synonym.name + " (" + synonym.meaning + ")";
  std::vector<std::string> rows;
  for (const auto& [theirs, ours] : synonym.values) rows.push_back(theirs + " -> " + ours.value_or("nothing"));
  return rows.empty() ? synonym.name : synonym.name + " (" + joined(rows) + ")";
}

std::string not_built_of(const Key& key) {
  if (key.not_built) return key.is_bool ? "true" : "any value";
  return joined(key.not_built_choices);
}

// Breaks `text` at spaces so that lines stay below `width`, each after the first with `indent` before it.
std::string wrapped(const std::string& text, size_t indent, size_t width) {
  std::string out;
  size_t column = indent;
  for (size_t start = 0; start < text.size();) {
    const size_t end = std::min(text.find(' ', start), text.size());
    const std::string word = text.substr(start, end - start);
    if (column > indent && column + 1 + word.size() > width) {
      out += '\n';
      out.append(indent, ' ');
      column = indent;
    } else if (column > indent) {
      out += " ";
      ++column;
    }
    out += word;
    column += word.size();
    start = end + 1;
  }
  return out;
}

std::string synonyms_of(const Key& key) {
  std::vector<std::string> synonyms;
  for (const Synonym& synonym : key.synonyms) synonyms.push_back(synonym_text(synonym));
  for (const auto& [spelling, meant] : key.spellings) synonyms.push_back(fmt::format("{} for {}", spelling, meant));
  return joined(synonyms);
}

std::string help_of(const Key& key) {
  std::string text = key.help + " [" + values_of(key) + "]";
  if (const std::string value = default_of(key); !value.empty()) text += " (default: " + value + ")";
  if (const std::string refused = not_built_of(key); !refused.empty()) text += " (not built yet: " + refused + ")";
  if (const std::string synonyms = synonyms_of(key); !synonyms.empty()) text += " (also: " + synonyms + ")";
  return text;
}

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '|') out += '\\';
    out += c;
  }
  return out;
}

constexpr char kTableHead[] = "| key | values | default | meaning | synonyms |\n|---|---|---|---|---|\n";

std::string table_row(const Key& key) {
  std::string help = key.help;
  if (const std::string refused = not_built_of(key); !refused.empty()) help += " Not built yet: " + refused + ".";
  const std::string value = default_of(key);
  return fmt::format("| `{}` | {} | {} | {} | {} |\n", key.name, escaped(values_of(key)),
                     value.empty() ? "" : fmt::format("`{}`", escaped(value)), escaped(help),
                     escaped(synonyms_of(key)));
}

// The keys of an entry, under the names of the keys that take such entries.
std::string entry_section(const KeySet& part, const std::vector<CommandText>& commands) {
  std::vector<std::string> takers;
  for (const CommandText& text : commands) {
    for (const auto& key : text.command.keys->keys) {
      const std::string name = fmt::format("`{}`", key->name);
      if (key->parts != &part || std::find(takers.begin(), takers.end(), name) != takers.end()) continue;
      takers.push_back(name);
    }
  }
  std::string section = fmt::format("\n## An entry of {}\n\n{}", joined(takers, " and "), kTableHead);
  for (const auto& key : part.keys) section += table_row(*key);
  return section;
}

}  // namespace

std::string help_text(const CommandText& command) {
  constexpr size_t kIndent = 32, kWidth = 118;
  std::string text = fmt::format("qlora {}: {}\n\nusage: qlora {} [--config FILE.yaml] [--key value | key=value ...]\n",
                                 command.command.name, command.summary, command.command.name);
  text += "\n  --config FILE                 The config file; flags win over it.\n";
  std::string group;
  for (const auto& key : command.command.keys->keys) {
    if (key->group != group) text += fmt::format("\n{}\n", group = key->group);
    const std::string flag = fmt::format("  --{:<{}}", key->name, kIndent - 4);
    text += flag + (flag.size() > kIndent ? fmt::format("\n{:{}}", "", kIndent) : "");
    text += wrapped(help_of(*key), kIndent, kWidth) + "\n";
  }
  return text;
}

std::string reference_page(const std::vector<CommandText>& commands) {
  std::string page =
      "# Every key of every command\n\n"
      "This page is generated from the declarations of the keys (`qlora --reference`); do not edit it.\n\n"
      "A key is written as `key: value` in the file that `--config` names, or as `--key value`, `--key=value`,\n"
      "`key=value` or `--set key=value` behind the command; what is on the command line wins. `-` and `_` are equal\n"
      "in flags. One file may serve all commands: each checks the keys of the others, but otherwise ignores them.\n"
      "Synonyms are what other trainers call a key; a note names the key that they are read as.\n";
  std::vector<const KeySet*> parts;
  for (const CommandText& text : commands) {
    page += fmt::format("\n## qlora {}\n\n{}\n", text.command.name, text.summary);
    std::string group = "-";
    for (const auto& key : text.command.keys->keys) {
      if (key->group != group) {
        group = key->group;
        page += fmt::format("\n### {}\n\n{}", group.empty() ? "Its own keys" : group, kTableHead);
      }
      page += table_row(*key);
      const bool is_new = std::find(parts.begin(), parts.end(), key->parts) == parts.end();
      if (key->parts != nullptr && is_new) parts.push_back(key->parts);
    }
  }
  for (const KeySet* part : parts) page += entry_section(*part, commands);
  return page;
}

}  // namespace qlora
