// Format `messages`: {"messages": [{"role", "content", ...}, ...]}, as chat templates take them.
#include "columns.h"

namespace qlora {
namespace {

Example read(const Json& row, const FormatContext& context) {
  Example example;
  example.messages = objects_column(row, "messages");
  check_messages(example.messages, "messages");
  if (!context.prompt_template.empty()) apply_prompt_template(context.prompt_template, row, example.messages);
  return example;
}

}  // namespace

const RowFormat kMessagesFormat = {
    .id = DataFormat::kMessages,
    .name = "messages",
    .columns = "messages (a list of {role, content})",
    .matches = [](const Json& row) { return has_array(row, "messages"); },
    .needs_chat = [](const FormatContext&) { return true; },
    .read = read,
};

}  // namespace qlora
