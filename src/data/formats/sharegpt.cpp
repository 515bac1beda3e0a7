// Format `sharegpt`: {"conversations": [{"from", "value"}, ...], "system": ...} with ShareGPT's names of the roles.
#include <fmt/format.h>

#include "qlora/core/error.h"

#include "columns.h"

namespace qlora {
namespace {

// The role of a chat template by ShareGPT's name of it.
std::string role_of(const std::string& from) {
  if (from == "human" || from == "user") return "user";
  if (from == "gpt" || from == "assistant" || from == "function_call") return "assistant";
  if (from == "system") return "system";
  if (from == "tool" || from == "observation") return "tool";
  throw DataError(
      fmt::format("unknown role '{}' (known: human, user, gpt, assistant, function_call, system, tool, "
                  "observation)",
                  from));
}

// {"name", "arguments"} as text, or a list of them, becomes the `tool_calls` that chat templates render.
Json tool_calls_of(const std::string& value) {
  Json calls = Json::parse(value, nullptr, /*allow_exceptions=*/false);
  if (calls.is_object()) calls = Json::array({calls});
  if (!calls.is_array()) throw DataError("a function_call must be JSON: {\"name\", \"arguments\"} or a list of them");
  Json wrapped = Json::array();
  for (const Json& call : calls) {
    if (!call.is_object() || !call.contains("name")) throw DataError("a function_call has no 'name'");
    wrapped.push_back(Json{{"type", "function"}, {"function", call}});
  }
  return wrapped;
}

Json turn_of(const Json& turn) {
  const std::string from = text_column(turn, "from");
  Json result = message(role_of(from), text_column(turn, "value"));
  if (from == "function_call") {
    result["tool_calls"] = tool_calls_of(text_column(turn, "value"));
    result["content"] = "";
  }
  for (const auto& [key, value] : turn.items()) {
    if (key != "from" && key != "value") result[key] = value;
  }
  return result;
}

Example read(const Json& row, const FormatContext& context) {
  Example example;
  const char* known = turns_column(row, "from");
  const char* column = known != nullptr ? known : "conversations";
  const Json& turns = objects_column(row, column);
  for (std::size_t i = 0; i < turns.size(); ++i) {
    try {
      example.messages.push_back(turn_of(turns[i]));
    } catch (const DataError& error) {
      throw DataError(fmt::format("{}[{}]: {}", column, i, error.what()));
    }
  }
  add_system(row, example.messages);
  if (!context.prompt_template.empty()) apply_prompt_template(context.prompt_template, row, example.messages);
  return example;
}

}  // namespace

const RowFormat kSharegptFormat = {
    .id = DataFormat::kSharegpt,
    .name = "sharegpt",
    .columns = "conversations (a list of {from, value})",
    .matches = [](const Json& row) { return turns_column(row, "from") != nullptr || has_array(row, "conversations"); },
    .needs_chat = [](const FormatContext&) { return true; },
    .read = read,
};

}  // namespace qlora
