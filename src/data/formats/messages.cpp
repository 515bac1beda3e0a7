// Format `messages`: {"messages": [{"role", "content", ...}, ...]}, as chat templates take them.
#include "columns.h"

namespace qlora {
namespace {

Example read(const Json& row, const FormatContext& context) {
  Example example;
  const char* known = turns_column(row, "role");
  const char* column = known != nullptr ? known : "messages";
  example.messages = objects_column(row, column);
  check_messages(example.messages, column);
  add_system(row, example.messages);
  if (!context.prompt_template.empty()) apply_prompt_template(context.prompt_template, row, example.messages);
  return example;
}

}  // namespace

const RowFormat kMessagesFormat = {
    .id = DataFormat::kMessages,
    .name = "messages",
    .columns = "messages (a list of {role, content})",
    .matches =
        [](const Json& row) {
          return turns_column(row, "role") != nullptr ||
                 (has_array(row, "messages") && turns_column(row, "from") == nullptr);
        },
    .needs_chat = [](const FormatContext&) { return true; },
    .read = read,
};

}  // namespace qlora
