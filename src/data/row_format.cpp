// The table of formats, and what every format's rows may carry.
#include "qlora/data/row_format.h"

#include <array>

#include <fmt/format.h>

#include "qlora/core/error.h"

#include "formats/columns.h"

namespace qlora {
namespace {

// In the order in which they are tried where no format is named.
constexpr std::array<const RowFormat*, 6> kFormats = {
    &kMessagesFormat, &kSharegptFormat, &kSpiderFormat, &kAlpacaFormat, &kPromptCompletionFormat, &kTextFormat,
};

// Lists are often stored as text, since columns of tables cannot hold them.
Json list_column(const Json& row, const char* column) {
  const auto at = row.find(column);
  if (at == row.end() || at->is_null()) return nullptr;
  if (at->is_array()) return *at;
  if (at->is_string()) {
    if (at->get_ref<const std::string&>().empty()) return nullptr;
    Json parsed = Json::parse(at->get_ref<const std::string&>(), nullptr, /*allow_exceptions=*/false);
    if (parsed.is_array() || parsed.is_null()) return parsed;
  }
  throw DataError(fmt::format("column '{}' must be a list, or one as JSON text", column));
}

void read_common_columns(const Json& row, Example& example) {
  if (const auto id = row.find("id"); id != row.end() && (id->is_string() || id->is_number())) example.id = *id;
  if (example.kind != Example::Kind::kChat) return;
  example.tools = list_column(row, "tools");
  example.documents = list_column(row, "documents");
  const auto arguments = row.find("chat_template_kwargs");
  if (arguments == row.end() || arguments->is_null()) return;
  if (!arguments->is_object()) throw DataError("column 'chat_template_kwargs' must be an object");
  example.chat_template_kwargs = *arguments;
}

void replace_system(const std::string& system, Json& turns) {
  Json messages = Json::array();
  if (!system.empty()) messages.push_back(message("system", system));
  for (Json& turn : turns) {
    if (turn["role"] != "system") messages.push_back(std::move(turn));
  }
  turns = std::move(messages);
}

}  // namespace

std::span<const RowFormat* const> row_formats() {
  return kFormats;
}

const RowFormat& row_format(DataFormat id) {
  for (const RowFormat* format : kFormats) {
    if (format->id == id) return *format;
  }
  throw UsageError("a data format without an entry in the table of formats");
}

const RowFormat& guess_row_format(const Json& row) {
  for (const RowFormat* format : kFormats) {
    if (format->matches(row)) return *format;
  }
  std::string message = "the format cannot be told from the columns of the row (";
  const char* comma = "";
  for (const auto& [key, value] : row.items()) {
    message += fmt::format("{}{}: {}", comma, key, value.type_name());
    comma = ", ";
  }
  message += ")";
  comma = "; known are ";
  for (const RowFormat* format : kFormats) {
    message += fmt::format("{}{} ({})", comma, format->name, format->columns);
    comma = ", ";
  }
  throw DataError(message);
}

Example read_example(const RowFormat& format, Json row, const FormatContext& context,
                     const std::optional<std::string>& system_prompt) {
  Example example = format.read(row, context);
  read_common_columns(row, example);
  if (system_prompt) example.system = *system_prompt;
  if (example.kind == Example::Kind::kCompletion && !example.system.empty()) {
    example.prompt = example.system + "\n\n" + example.prompt;
  }
  if (example.kind == Example::Kind::kChat && system_prompt) replace_system(*system_prompt, example.messages);
  example.row = std::move(row);
  return example;
}

}  // namespace qlora
