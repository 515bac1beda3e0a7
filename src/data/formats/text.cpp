// Format `text`: one string, every token of which is learnt.
#include "qlora/data/prompt_template.h"

#include "columns.h"

namespace qlora {
namespace {

Example read(const Json& row, const FormatContext& context) {
  Example example;
  example.kind = Example::Kind::kText;
  example.answer =
      context.prompt_template.empty() ? text_column(row, "text") : fill_prompt_template(context.prompt_template, row);
  return example;
}

}  // namespace

const RowFormat kTextFormat = {
    .id = DataFormat::kText,
    .name = "text",
    .columns = "text",
    .matches = [](const Json& row) { return has_text(row, "text"); },
    .needs_chat = [](const FormatContext&) { return false; },
    .read = read,
};

}  // namespace qlora
