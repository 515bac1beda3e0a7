// Data formats: how the columns of a row become an Example. Each format is one file in src/data/formats/ and one line
// in the table of row_formats().
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "qlora/core/json.h"
#include "qlora/data/example.h"
#include "qlora/data/options.h"
#include "qlora/data/schemas.h"

namespace qlora {

// What a format needs to know besides the row.
struct FormatContext {
  bool chat = false;        // there is a chat template: prompts become messages where a format can be either
  bool input_turn = false;  // the template has turns of role `input` and `context`, for what an instruction is about
  PromptStyle prompt_style = PromptStyle::kQuestion;
  std::string prompt_template = {};
  const Schemas* schemas = nullptr;
};

struct RowFormat {
  DataFormat id;
  std::string_view name;
  std::string_view columns;  // what a row must have, for messages
  // Whether a row looks like this format: how it is guessed.
  bool (*matches)(const Json& row);
  // Whether rows can only be rendered by a chat template.
  bool (*needs_chat)(const FormatContext& context);
  // Fills kind, messages or prompt and answer. Throws DataError without the place, which the caller knows.
  Example (*read)(const Json& row, const FormatContext& context);
};

std::span<const RowFormat* const> row_formats();

const RowFormat& row_format(DataFormat id);

// The format that the row's columns tell. Throws DataError that names the row's columns and those of every format.
const RowFormat& guess_row_format(const Json& row);

// Reads a row by a format: what RowFormat::read gives, and the columns that any format may have (id, tools, documents,
// chat_template_kwargs). system_prompt takes the place of the row's own; an empty one removes it. Throws DataError.
Example read_example(const RowFormat& format, Json row, const FormatContext& context,
                     const std::optional<std::string>& system_prompt);

}  // namespace qlora
