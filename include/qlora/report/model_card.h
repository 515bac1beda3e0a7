// README.md of an adapter or a tuned model, as the Hugging Face Hub reads it.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace qlora {

struct ModelCard {
  std::string name;                   // of the folder
  std::string base_model;             // a Hub id or a folder
  std::string method;                 // qlora, lora, full
  std::vector<std::string> datasets;  // Hub ids go into the front matter, paths into the text alone
  // What a reader wants to know, in order: rows, steps, learning rate, loss, ... names and values.
  std::vector<std::pair<std::string, std::string>> training;
  std::vector<std::pair<std::string, std::string>> results;
  std::string usage;  // a command or code that uses it; may be empty
};

// YAML front matter (base_model, library_name peft or transformers, pipeline_tag, tags) and the text below it.
std::string model_card(const ModelCard& card);

// "owner/name" of letters, digits, '-', '_' and '.'.
bool is_hub_id(const std::string& text);

}  // namespace qlora
