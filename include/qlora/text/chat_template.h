// Chat templates: the Jinja that models ship, rendered byte for byte as transformers configures jinja2.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include <nlohmann/json.hpp>

namespace qlora {

// Keeps the order of keys, as Python's dict does: `tojson` and loops over items show it.
using Json = nlohmann::ordered_json;

// A parsed template; immutable, safe from several threads. Rendering reads no file, environment or code, and stops with
// a DataError after a bounded number of steps, depth and output.
class ChatTemplate {
 public:
  // `origin` names the source in errors ("chat_template.jinja"). Throws DataError with line, column and a caret.
  static std::shared_ptr<const ChatTemplate> parse(std::string source, std::string origin);
  virtual ~ChatTemplate() = default;

  // variables: messages, add_generation_prompt, bos_token, eos_token, tools, documents and any chat_template_kwargs.
  // Throws DataError for raise_exception(...) and for what jinja2 would raise.
  virtual std::string render(const Json& variables) const = 0;

  virtual const std::string& source() const = 0;
  // Of the template that renders instead where `tools` is given and not null; "" where it is the same.
  virtual std::string tool_source() const { return ""; }
};

// Where a model folder has templates beside the usual one, and the one for conversations with tools there.
inline constexpr const char* kMoreTemplates = "additional_chat_templates";
inline constexpr const char* kToolTemplate = "tool_use.jinja";

// The template of a model folder: chat_template.jinja with additional_chat_templates/tool_use.jinja, else the field
// chat_template of tokenizer_config.json: a string, or a list of named ones, of which "default" is taken, and
// "tool_use" where tools are given. Null: has none.
std::shared_ptr<const ChatTemplate> load_chat_template(const std::filesystem::path& model_folder);

// A template by the config's word: "auto" (the model's own), "chatml", "llama3", "alpaca", a Jinja file, or a folder
// that holds a template as a model's does. UsageError lists what there is where the model has none and none is named.
std::shared_ptr<const ChatTemplate> choose_chat_template(const std::string& choice,
                                                         const std::filesystem::path& model_folder);

}  // namespace qlora
