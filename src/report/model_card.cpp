#include "qlora/report/model_card.h"

#include <algorithm>
#include <cctype>

#include <spdlog/fmt/fmt.h>

namespace qlora {
namespace {

// A YAML scalar that cannot be anything but this text.
std::string yaml_text(const std::string& text) {
  std::string out = "\"";
  for (unsigned char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (c < 0x20) {
      out += fmt::format("\\x{:02x}", c);
    } else {
      out += static_cast<char>(c);
    }
  }
  return out + "\"";
}

// Text in a cell of a Markdown table.
std::string cell(const std::string& text) {
  std::string out;
  for (char c : text) {
    if (c == '|' || c == '\\') out += '\\';
    out += c == '\n' || c == '\r' ? ' ' : c;
  }
  return out;
}

std::string table(const std::string& head, const std::vector<std::pair<std::string, std::string>>& rows) {
  if (rows.empty()) return "";
  std::string out = fmt::format("\n## {}\n\n| | |\n|---|---|\n", head);
  for (const auto& [name, value] : rows) out += fmt::format("| {} | {} |\n", cell(name), cell(value));
  return out;
}

std::string front_matter(const ModelCard& card) {
  const bool adapter = card.method != "full";
  std::string out = "---\n";
  if (!card.base_model.empty()) out += "base_model: " + yaml_text(card.base_model) + "\n";
  out += adapter ? "library_name: peft\n" : "library_name: transformers\n";
  out += "pipeline_tag: text-generation\ntags:\n";
  if (!card.base_model.empty())
    out += "- " + yaml_text(std::string("base_model:") + (adapter ? "adapter:" : "finetune:") + card.base_model) + "\n";
  if (adapter) out += "- lora\n";
  if (card.method == "qlora") out += "- qlora\n";
  out += "- text-generation\n";
  std::string data;
  for (const auto& dataset : card.datasets) {
    if (is_hub_id(dataset)) data += "- " + yaml_text(dataset) + "\n";
  }
  if (!data.empty()) out += "datasets:\n" + data;
  return out + "---\n";
}

}  // namespace

bool is_hub_id(const std::string& text) {
  const size_t slash = text.find('/');
  if (slash == std::string::npos || slash == 0 || slash + 1 == text.size() ||
      text.find('/', slash + 1) != std::string::npos)
    return false;
  if (text[0] == '.' || text[0] == '-') return false;
  return std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '/' || c == '-' || c == '_' || c == '.';
  });
}

std::string model_card(const ModelCard& card) {
  const bool adapter = card.method != "full";
  std::string out = front_matter(card);
  out += fmt::format("\n# {}\n\n", card.name);
  out += adapter ? fmt::format("A LoRA adapter for `{}`, trained with {}.\n", card.base_model,
                               card.method == "qlora" ? "QLoRA (4-bit NF4 base)" : "LoRA")
                 : fmt::format("`{}`, fine-tuned with all its weights.\n", card.base_model);
  if (!card.datasets.empty()) out += fmt::format("Trained on: {}.\n", fmt::join(card.datasets, ", "));
  out += table("Training", card.training) + table("Results", card.results);
  if (!card.usage.empty()) out += "\n## Use\n\n```\n" + card.usage + "\n```\n";
  return out;
}

}  // namespace qlora
