// Format `prompt_completion`: two strings, which stay as they are (the end token follows), or two lists of messages.
#include "qlora/core/error.h"
#include "qlora/data/prompt_template.h"

#include "columns.h"

namespace qlora {
namespace {

Example read_chat(const Json& row, const FormatContext& context) {
  Example example;
  for (const char* column : {"prompt", "completion"}) {
    const Json& part = objects_column(row, column);
    check_messages(part, column);
    example.messages.insert(example.messages.end(), part.begin(), part.end());
  }
  if (!context.prompt_template.empty()) apply_prompt_template(context.prompt_template, row, example.messages);
  return example;
}

Example read(const Json& row, const FormatContext& context) {
  if (has_array(row, "prompt")) {
    if (!context.chat) throw DataError("a prompt that is a list of messages needs a chat template: name chat_template");
    return read_chat(row, context);
  }
  Example example;
  example.kind = Example::Kind::kCompletion;
  example.prompt =
      context.prompt_template.empty() ? text_column(row, "prompt") : fill_prompt_template(context.prompt_template, row);
  example.answer = text_column(row, "completion");
  return example;
}

}  // namespace

const RowFormat kPromptCompletionFormat = {
    .id = DataFormat::kPromptCompletion,
    .name = "prompt_completion",
    .columns = "prompt, completion",
    .matches =
        [](const Json& row) {
          return (has_text(row, "prompt") && has_text(row, "completion")) ||
                 (has_array(row, "prompt") && has_array(row, "completion"));
        },
    .needs_chat = [](const FormatContext&) { return false; },
    .read = read,
};

}  // namespace qlora
