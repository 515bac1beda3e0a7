// The config keys that say which rows are read, how they become prompts, and how those become tokens and labels.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "qlora/core/json.h"
#include "qlora/core/schema_fwd.h"

namespace qlora {

// kAuto: guessed from the first row's columns.
enum class DataFormat { kAuto, kMessages, kSharegpt, kAlpaca, kPromptCompletion, kText, kSpider };

enum class PromptStyle { kQuestion, kSchema, kContext };

enum class Overflow { kDrop, kTruncate };

// One source of rows.
struct DatasetEntry {
  std::string path;               // a file, a folder, or a data set of the Hub (owner/name)
  std::string revision = "main";  // of the Hub: a branch, a tag or a commit
  DataFormat format = DataFormat::kAuto;
  std::string split;             // of a folder that holds several: train, validation, test
  double weight = 1.0;           // how often its rows are taken in an epoch, relative to 1
  std::optional<int64_t> limit;  // the first rows only
};

struct DataOptions {
  // Which rows.
  std::vector<DatasetEntry> dataset;
  std::vector<DatasetEntry> eval_dataset;
  double val_size = 0.0;     // below 1: this share of the rows of `dataset` evaluates; from 1: so many rows
  std::string prepared_dir;  // what `prepare` wrote, instead of `dataset`
  bool shuffle = true;

  // How a row becomes text.
  std::string chat_template = "auto";  // auto | chatml | llama3 | alpaca | a file or folder
  Json chat_template_kwargs = Json::object();
  std::optional<std::string> system_prompt;  // takes the place of a row's own; an empty one removes it
  std::string prompt_template;               // with {column} of the row; {schema} for spider
  PromptStyle prompt_style = PromptStyle::kQuestion;
  std::string tables;  // spider's tables.json
  std::string db_dir;  // spider's folder of <db_id>/<db_id>.sqlite

  // How text becomes tokens and labels.
  std::optional<int64_t> max_length;  // in tokens; unset: as many as the model has positions
  Overflow overflow = Overflow::kDrop;
  std::optional<bool> assistant_only_loss;  // unset: true for every format but text
  bool add_special_tokens = true;           // of format text: as the tokenizer's own post-processing has it
  bool packing = false;                     // several rows to one of max_length
};

void declare(Schema<DatasetEntry>& schema);
void declare(Schema<DataOptions>& schema);

}  // namespace qlora
