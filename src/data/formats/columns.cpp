#include "columns.h"

#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/data/prompt_template.h"

namespace qlora {

bool has_text(const Json& row, const char* column) {
  const auto at = row.find(column);
  return at != row.end() && at->is_string();
}

bool has_array(const Json& row, const char* column) {
  const auto at = row.find(column);
  return at != row.end() && at->is_array();
}

const char* column_of(const Json& row, const char* name, const char* synonym) {
  const auto holds = [&](const char* column) {
    const auto at = row.find(column);
    return at != row.end() && !at->is_null() && *at != "";
  };
  if (holds(name) && holds(synonym) && row[name] != row[synonym]) {
    throw DataError(
        fmt::format("columns '{}' and '{}' mean the same, and the row has both: remove one of them", name, synonym));
  }
  const bool takes_synonym = holds(synonym) || (row.contains(synonym) && !row.contains(name));
  return takes_synonym && !holds(name) ? synonym : name;
}

std::string text_column(const Json& row, const char* column) {
  const auto at = row.find(column);
  if (at == row.end()) throw DataError(fmt::format("the row has no column '{}'", column));
  if (!at->is_string()) throw DataError(fmt::format("column '{}' must be a string, is {}", column, at->type_name()));
  return at->get<std::string>();
}

std::string optional_text_column(const Json& row, const char* column) {
  const auto at = row.find(column);
  return at == row.end() || at->is_null() ? std::string() : text_column(row, column);
}

const Json& objects_column(const Json& row, const char* column) {
  const auto at = row.find(column);
  if (at == row.end()) throw DataError(fmt::format("the row has no column '{}'", column));
  if (!at->is_array()) throw DataError(fmt::format("column '{}' must be a list, is {}", column, at->type_name()));
  if (at->empty()) throw DataError(fmt::format("column '{}' is an empty list", column));
  for (std::size_t i = 0; i < at->size(); ++i) {
    if (!(*at)[i].is_object()) {
      throw DataError(fmt::format("{}[{}] must be an object, is {}", column, i, (*at)[i].type_name()));
    }
  }
  return *at;
}

Json message(const std::string& role, const std::string& content) {
  return Json{{"role", role}, {"content", content}};
}

const char* turns_column(const Json& row, const char* key) {
  for (const char* column : {"messages", "conversations", "conversation"}) {
    if (has_array(row, column) && !row[column].empty() && row[column][0].contains(key)) return column;
  }
  return nullptr;
}

void add_system(const Json& row, Json& messages) {
  const std::string system = optional_text_column(row, "system");
  if (system.empty() || messages[0] == message("system", system)) return;
  messages.insert(messages.begin(), message("system", system));
}

Example single_turn(const FormatContext& context, const std::string& system, const std::string& user,
                    const std::string& plain_prompt, const std::string& answer) {
  Example example;
  if (!context.chat) {
    example.kind = Example::Kind::kCompletion;
    example.system = system;
    example.prompt = plain_prompt;
    example.answer = answer;
    return example;
  }
  if (!system.empty()) example.messages.push_back(message("system", system));
  example.messages.push_back(message("user", user));
  example.messages.push_back(message("assistant", answer));
  return example;
}

void apply_prompt_template(const std::string& prompt_template, const Json& row, Json& messages) {
  for (auto turn = messages.rbegin(); turn != messages.rend(); ++turn) {
    if ((*turn)["role"] != "user") continue;
    const std::string content = text_column(*turn, "content");
    (*turn)["content"] = fill_prompt_template(prompt_template, row, [&](const std::string& name) {
      return name == "content" ? std::optional(content) : std::nullopt;
    });
    return;
  }
}

void check_messages(const Json& messages, const char* column) {
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const auto role = messages[i].find("role");
    if (role == messages[i].end()) throw DataError(fmt::format("{}[{}] has no 'role'", column, i));
    if (!role->is_string()) {
      throw DataError(fmt::format("{}[{}].role must be a string, is {}", column, i, role->type_name()));
    }
  }
}

}  // namespace qlora
