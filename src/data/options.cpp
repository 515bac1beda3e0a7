// The declarations of the data's keys.
#include "qlora/data/options.h"

#include <algorithm>
#include <cmath>

#include "qlora/core/schema.h"

namespace qlora {
namespace {

std::string unbuilt_source(const std::string& path) {
  if (path.ends_with(".csv") || path.ends_with(".parquet")) {
    return "reading " + path.substr(path.rfind('.') + 1) + " files";
  }
  return "";
}

void declare_rows(Schema<DataOptions>& schema) {
  using D = DataOptions;
  schema
      .key("dataset", &D::dataset,
           "What to train on: a file, a folder, a data set of the Hub (owner/name), a map of path, revision, format, "
           "split, weight, limit, or a list of these.")
      .synonyms({"datasets", "train_dataset"});
  schema.key("eval_dataset", &D::eval_dataset, "What to evaluate on, like `dataset`.")
      .synonyms({"test_datasets", "val_dataset"});
  schema
      .key("val_size", &D::val_size,
           "Part of `dataset` that evaluates instead of training: a share below 1, or a number of rows.")
      .at_least(0)
      .synonyms({"val_set_size", "validation_split"});
  schema.rule("val_size", [](const D& d) -> std::string {
    return d.val_size < 1 || d.val_size == std::floor(d.val_size) ? ""
                                                                  : "a share is below 1, a number of rows is whole";
  });
  schema.key("prepared_dir", &D::prepared_dir,
             "A folder that `qlora prepare` wrote: its rows are taken, after a check that `dataset`, where it is given "
             "too, still prepares to them.");
  schema.key("shuffle", &D::shuffle, "Shuffle the rows of each epoch; false: the file's order.");
}

void declare_prompts(Schema<DataOptions>& schema) {
  using D = DataOptions;
  schema
      .key("chat_template", &D::chat_template,
           "auto (the model's own; in eval the adapter's), chatml, llama3, alpaca, a file with a Jinja template, or a "
           "folder that holds one. The end token of a template that is named becomes a stop token.")
      .synonyms({"template"});
  schema.key("chat_template_kwargs", &D::chat_template_kwargs,
             "Further variables of the template, such as {enable_thinking: false}.");
  schema
      .key("system_prompt", &D::system_prompt,
           "The system message of every row, in place of its own; empty: rows have none.")
      .synonyms({"default_system", "system_message"});
  schema.key("prompt_template", &D::prompt_template,
             "The user's message with any {column} of the row; {schema} for the format spider.");
  schema
      .key("prompt_style", &D::prompt_style,
           "Spider: database name and question; with CREATE TABLE text; or an instruction, Input, Context, Response.")
      .choices(
          {{"question", PromptStyle::kQuestion}, {"schema", PromptStyle::kSchema}, {"context", PromptStyle::kContext}});
  schema.key("tables", &D::tables, "Spider: tables.json, the schemas of the databases.");
  schema.key("db_dir", &D::db_dir,
             "Spider: the folder of <db_id>/<db_id>.sqlite; execution is scored on every .sqlite file beside it, too.");
}

void declare_tokens(Schema<DataOptions>& schema) {
  using D = DataOptions;
  schema.key("max_length", &D::max_length, "Tokens of a row at most. Unset: as many as the model has positions.")
      .at_least(2)
      .synonyms({"sequence_len", "cutoff_len", "max_seq_length", "max_seq_len"});
  schema.key("overflow", &D::overflow, "What happens to longer rows; either is counted.")
      .choices({{"drop", Overflow::kDrop}, {"truncate", Overflow::kTruncate}});
  schema
      .key("assistant_only_loss", &D::assistant_only_loss,
           "Take the loss on answers alone. Unset: true for every format but text.")
      .synonym("train_on_inputs", {{"true", "false"}, {"false", "true"}})
      .synonym("train_on_prompt", {{"true", "false"}, {"false", "true"}})
      .synonyms({"mask_prompt"});
  schema.key("add_special_tokens", &D::add_special_tokens,
             "Format text: add what the tokenizer's own post-processing adds.");
  schema
      .key("packing", &D::packing,
           "Pack several rows into one of max_length; they cannot see each other. Batches have no padding either way.")
      .synonyms({"sample_packing", "neat_packing", "packed"});
  schema.rule("packing", [](const D& d) -> std::string {
    return d.packing && !d.max_length ? "needs max_length: rows are packed to it" : "";
  });
}

}  // namespace

void declare(Schema<DatasetEntry>& schema) {
  using D = DatasetEntry;
  schema.key("path", &D::path, "A file, a folder, or a data set of the Hugging Face Hub (owner/name).")
      .not_built_yet_where(unbuilt_source);
  schema.key("revision", &D::revision, "Of the Hub: a branch, a tag or a commit.");
  schema.key("format", &D::format, "What the rows are; auto: guessed from their columns.")
      .choices({{"auto", DataFormat::kAuto},
                {"messages", DataFormat::kMessages},
                {"sharegpt", DataFormat::kSharegpt},
                {"alpaca", DataFormat::kAlpaca},
                {"prompt_completion", DataFormat::kPromptCompletion},
                {"text", DataFormat::kText},
                {"spider", DataFormat::kSpider}});
  schema.key("split", &D::split, "Of a folder or data set that holds several: train, validation, test.");
  schema.key("weight", &D::weight, "How often its rows are taken in an epoch.").above(0);
  schema.key("limit", &D::limit, "The first rows only.").at_least(1);
  schema.shorthand("path");
}

void declare(Schema<DataOptions>& schema) {
  declare_rows(schema);
  declare_prompts(schema);
  declare_tokens(schema);
}

}  // namespace qlora
