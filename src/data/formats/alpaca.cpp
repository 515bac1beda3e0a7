// Format `alpaca`: {"instruction", "input", "output"}, or Dolly's {"instruction", "context", "response"}; with `system`
// and `history` where they are given. Without a chat template it renders the headings of the Alpaca data.
#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/data/prompt_template.h"

#include "columns.h"

namespace qlora {
namespace {

// Dolly's name of it is `context`.
std::string input_of(const Json& row) {
  return optional_text_column(row, column_of(row, "input", "context"));
}

std::string plain_prompt(const std::string& instruction, const std::string& input) {
  std::string prompt = fmt::format("### Instruction:\n{}\n\n", instruction);
  if (!input.empty()) prompt += fmt::format("### Input:\n{}\n\n", input);
  return prompt + "### Response:\n";
}

// Earlier turns, [[question, answer], ...], go between the system message and the question.
void insert_history(const Json& row, Example& example) {
  const auto history = row.find("history");
  if (history == row.end() || history->is_null() || history->empty()) return;
  if (example.kind != Example::Kind::kChat) throw DataError("column 'history' can only be rendered by a chat template");
  Json turns = Json::array();
  for (const Json& pair : *history) {
    if (!pair.is_array() || pair.size() != 2 || !pair[0].is_string() || !pair[1].is_string()) {
      throw DataError("column 'history' must be a list of [question, answer]");
    }
    turns.push_back(message("user", pair[0].get<std::string>()));
    turns.push_back(message("assistant", pair[1].get<std::string>()));
  }
  example.messages.insert(example.messages.end() - 2, turns.begin(), turns.end());
}

// What the instruction is about, between it and the answer.
void insert_input(const Json& row, Example& example) {
  const std::string input = input_of(row);
  if (!input.empty()) example.messages.insert(example.messages.end() - 1, message("input", input));
}

Example read(const Json& row, const FormatContext& context) {
  const std::string answer = text_column(row, column_of(row, "output", "response"));
  const std::string system = optional_text_column(row, "system");
  std::string user, plain;
  if (context.prompt_template.empty()) {
    const std::string instruction = text_column(row, "instruction");
    const std::string input = input_of(row);
    user = input.empty() || context.input_turn ? instruction : instruction + "\n" + input;
    plain = plain_prompt(instruction, input);
  } else {
    user = plain = fill_prompt_template(context.prompt_template, row);
  }
  Example example = single_turn(context, system, user, plain, answer);
  insert_history(row, example);
  if (context.input_turn && context.prompt_template.empty()) insert_input(row, example);
  return example;
}

}  // namespace

const RowFormat kAlpacaFormat = {
    .id = DataFormat::kAlpaca,
    .name = "alpaca",
    .columns = "instruction, input (optional), output",
    .matches =
        [](const Json& row) {
          return has_text(row, "instruction") && (has_text(row, "output") || has_text(row, "response"));
        },
    .needs_chat = [](const FormatContext&) { return false; },
    .read = read,
};

}  // namespace qlora
