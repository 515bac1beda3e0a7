// Format `spider`: {"question", "query", "db_id"}; a row may bring its own schema in `context` and its SQL in `answer`.
#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/data/prompt_template.h"

#include "columns.h"

namespace qlora {
namespace {

constexpr const char* kSystem =
    "You are an SQL expert. You translate questions about a database into SQL queries that answer them.";
constexpr const char* kContextSystem =
    "You are an SQL expert. Write the SQL query that answers the question in the input, over the tables in the "
    "context.";
constexpr const char* kOnlySql = "Answer with the SQL query only.";

std::string db_id_of(const Json& row, const FormatContext& context) {
  const std::string db_id = text_column(row, "db_id");
  if (context.schemas != nullptr && context.schemas->has_tables() && !context.schemas->in_tables(db_id)) {
    throw DataError(fmt::format("db_id '{}' is not in tables", db_id));
  }
  return db_id;
}

std::string schema_of(const Json& row, const FormatContext& context) {
  if (has_text(row, "context")) return text_column(row, "context");
  const std::string db_id = db_id_of(row, context);
  if (context.schemas == nullptr) throw DataError("a schema is asked for, but neither tables nor db_dir is given");
  return context.schemas->create_tables(db_id);
}

// Rows that bring their own schema need no name.
std::string database_line(const Json& row) {
  return has_text(row, "db_id") ? fmt::format("Database: {}\n\n", text_column(row, "db_id")) : "";
}

// The user's part of the prompt, but for prompt_style context.
std::string user_text(const Json& row, const FormatContext& context) {
  if (!context.prompt_template.empty()) {
    return fill_prompt_template(context.prompt_template, row, [&](const std::string& name) {
      return name == "schema" ? std::optional(schema_of(row, context)) : std::nullopt;
    });
  }
  const std::string question = text_column(row, "question");
  if (context.prompt_style == PromptStyle::kSchema) {
    return fmt::format("{}{}\n\nQuestion: {}\n{}", database_line(row), schema_of(row, context), question, kOnlySql);
  }
  return fmt::format("Database: {}\nQuestion: {}\n{}", db_id_of(row, context), question, kOnlySql);
}

// Input / Context / Response, as models without a chat template learn it.
Example read_context(const Json& row, const FormatContext& context, const std::string& answer) {
  const std::string question = text_column(row, "question");
  const std::string schema = schema_of(row, context);
  const std::string user = fmt::format("### Input:\n{}\n\n### Context:\n{}", question, schema);
  Example example = single_turn(context, kContextSystem, user, user + "\n\n### Response:\n", answer);
  if (context.input_turn) {  // the template writes the headings
    example.messages = {message("system", kContextSystem), message("input", question), message("context", schema),
                        message("assistant", answer)};
  }
  return example;
}

Example read(const Json& row, const FormatContext& context) {
  const std::string answer = text_column(row, column_of(row, "query", "answer"));
  const bool own_prompt = context.prompt_template.empty();
  if (own_prompt && context.prompt_style == PromptStyle::kContext) return read_context(row, context, answer);
  const std::string user = user_text(row, context);
  return single_turn(context, own_prompt ? kSystem : "", user, user, answer);
}

bool matches(const Json& row) {
  return has_text(row, "question") &&
         ((has_text(row, "query") && has_text(row, "db_id")) || (has_text(row, "answer") && has_text(row, "context")));
}

}  // namespace

const RowFormat kSpiderFormat = {
    .id = DataFormat::kSpider,
    .name = "spider",
    .columns = "question, query, db_id",
    .matches = matches,
    .needs_chat =
        [](const FormatContext& context) {
          return context.prompt_template.empty() && context.prompt_style != PromptStyle::kContext;
        },
    .read = read,
};

}  // namespace qlora
