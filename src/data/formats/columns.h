// What the formats share: columns with checked types, and a prompt with its answer as messages or as plain text.
#pragma once

#include <optional>
#include <string>

#include "qlora/core/json.h"
#include "qlora/data/example.h"
#include "qlora/data/row_format.h"

namespace qlora {

bool has_text(const Json& row, const char* column);
bool has_array(const Json& row, const char* column);

// The one of two columns of the same meaning that holds something; `name` where neither is there. Throws DataError
// where they hold different things: one of them would be lost.
const char* column_of(const Json& row, const char* name, const char* synonym);

// A string column. Throws DataError where it is missing or has another type.
std::string text_column(const Json& row, const char* column);
// Empty where it is missing or null. Throws DataError where it has another type.
std::string optional_text_column(const Json& row, const char* column);
// A list of objects, not empty. Throws DataError otherwise.
const Json& objects_column(const Json& row, const char* column);

Json message(const std::string& role, const std::string& content);

// The column (messages, conversations or conversation) whose first turn has `key`; null where none has. Whether turns
// have a `role` or a `from` tells `messages` from `sharegpt`: files have either under each of the names.
const char* turns_column(const Json& row, const char* key);
// The column `system`, put before the turns that lack it.
void add_system(const Json& row, Json& messages);

// One question and its answer: kChat where context.chat, else kCompletion. system may be empty.
Example single_turn(const FormatContext& context, const std::string& system, const std::string& user,
                    const std::string& plain_prompt, const std::string& answer);

// In place: the content of the last user message becomes prompt_template with the row's columns, {content} its own
// text.
void apply_prompt_template(const std::string& prompt_template, const Json& row, Json& messages);

// Throws DataError unless every message is an object with a `role` that is a string.
void check_messages(const Json& messages, const char* column);

extern const RowFormat kMessagesFormat, kSharegptFormat, kAlpacaFormat, kPromptCompletionFormat, kTextFormat,
    kSpiderFormat;

}  // namespace qlora
