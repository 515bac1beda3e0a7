// Chat templates over the engine: errors get their place, model folders their template.
#include "qlora/text/chat_template.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <map>
#include <vector>

#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/text/chat_template_builtin.h"
#include "qlora/text/jinja/parser.h"
#include "qlora/text/jinja/runtime.h"
#include "qlora/text/jinja/unicode.h"

namespace qlora {
namespace {

// "origin:line:column: message", the line and a caret under the column. Columns count characters from 1.
std::string located(const std::string& origin, std::string_view source, std::size_t at, const std::string& message) {
  at = std::min(at, source.size());
  const std::size_t before = at == 0 ? std::string_view::npos : source.rfind('\n', at - 1);
  const std::size_t start = before == std::string_view::npos ? 0 : before + 1;
  const auto line = std::count(source.begin(), source.begin() + static_cast<std::ptrdiff_t>(at), '\n') + 1;
  std::string_view text = source.substr(start, source.find('\n', start) - start);
  std::size_t column = jinja::unicode::length(source.substr(start, at - start));
  std::string prefix, suffix;
  constexpr std::size_t kAround = 60;  // characters shown on each side of the place
  if (column > kAround) {
    text.remove_prefix(jinja::unicode::offset(text, column - kAround));
    prefix = "...";
  }
  if (jinja::unicode::length(text) > 2 * kAround) {
    text = text.substr(0, jinja::unicode::offset(text, 2 * kAround));
    suffix = "...";
  }
  const std::size_t caret = prefix.size() + std::min(column, kAround);
  return fmt::format("{}:{}:{}: {}\n  {}{}{}\n  {:>{}}", origin, line, column + 1, message, prefix, text, suffix, "^",
                     caret + 1);
}

class JinjaTemplate : public ChatTemplate {
 public:
  JinjaTemplate(std::string source, std::string origin)
      : source_(std::move(source)), normalized_(jinja::normalize_source(source_)), origin_(std::move(origin)) {
    if (normalized_.size() > std::numeric_limits<std::uint32_t>::max()) {
      throw DataError(fmt::format("{}: the template is larger than 4 GiB", origin_));
    }
    const std::size_t invalid = jinja::unicode::find_invalid(normalized_);
    if (invalid != std::string::npos) {
      throw DataError(fmt::format("{}: byte {} is not valid UTF-8; save the template as UTF-8", origin_, invalid));
    }
    try {
      program_ = jinja::Parser(jinja::tokenize(normalized_)).parse();
      jinja::resolve_scopes(*program_);
    } catch (const jinja::SyntaxFailure& failure) {
      throw DataError(located(origin_, normalized_, failure.at, failure.what()));
    }
  }

  std::string render(const Json& variables) const override {
    jinja::Render render(*program_, variables);
    try {
      return render.run();
    } catch (const jinja::Failure& failure) {
      throw DataError(located(origin_, normalized_, render.at, failure.what()));
    }
  }

  const std::string& source() const override { return source_; }

 private:
  std::string source_;
  std::string normalized_;
  std::string origin_;
  std::unique_ptr<jinja::Program> program_;
};

std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw DataError(fmt::format("{}: cannot be read", path.string()));
  std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (file.bad()) throw DataError(fmt::format("{}: cannot be read", path.string()));
  return text;
}

// Two templates that a model names "default" and "tool_use".
class ToolAwareTemplate : public ChatTemplate {
 public:
  ToolAwareTemplate(std::shared_ptr<const ChatTemplate> usual, std::shared_ptr<const ChatTemplate> with_tools)
      : usual_(std::move(usual)), with_tools_(std::move(with_tools)) {}

  std::string render(const Json& variables) const override {
    const auto tools = variables.find("tools");
    const bool given = tools != variables.end() && !tools->is_null();
    return (given ? with_tools_ : usual_)->render(variables);
  }
  const std::string& source() const override { return usual_->source(); }
  std::string tool_source() const override { return with_tools_->source(); }

 private:
  std::shared_ptr<const ChatTemplate> usual_, with_tools_;
};

std::shared_ptr<const ChatTemplate> join_templates(std::shared_ptr<const ChatTemplate> usual,
                                                   std::shared_ptr<const ChatTemplate> with_tools) {
  if (!with_tools || with_tools->source() == usual->source()) return usual;
  return std::make_shared<ToolAwareTemplate>(std::move(usual), std::move(with_tools));
}

// A list of {"name", "template"}.
std::shared_ptr<const ChatTemplate> template_of_list(const Json& list, const std::string& origin) {
  std::map<std::string, std::shared_ptr<const ChatTemplate>> chosen = {{"default", nullptr}, {"tool_use", nullptr}};
  for (const Json& entry : list) {
    const bool valid = entry.is_object() && entry.contains("name") && entry["name"].is_string() &&
                       entry.contains("template") && entry["template"].is_string();
    if (!valid) {
      throw DataError(fmt::format("{}: chat_template: every entry of the list needs a name and a template", origin));
    }
    const auto named = chosen.find(entry["name"].get<std::string>());
    if (named == chosen.end()) continue;
    named->second = ChatTemplate::parse(entry["template"].get<std::string>(),
                                        fmt::format("{}:chat_template[{}]", origin, named->first));
  }
  if (!chosen["default"]) {
    throw DataError(
        fmt::format("{}: chat_template is a list without 'default'; name a template's file with "
                    "chat_template",
                    origin));
  }
  return join_templates(chosen["default"], chosen["tool_use"]);
}

std::shared_ptr<const ChatTemplate> template_of_config(const std::filesystem::path& path) {
  const std::string origin = path.string();
  Json config;
  try {
    config = Json::parse(read_file(path));
  } catch (const Json::exception& error) {
    throw DataError(fmt::format("{}: is not valid JSON: {}", origin, error.what()));
  }
  if (!config.is_object()) throw DataError(fmt::format("{}: must be a JSON object", origin));
  const auto field = config.find("chat_template");
  if (field == config.end() || field->is_null()) return nullptr;
  if (field->is_string()) return ChatTemplate::parse(field->get<std::string>(), origin + ":chat_template");
  if (field->is_array()) return template_of_list(*field, origin);
  throw DataError(fmt::format("{}: chat_template must be a string or a list of named templates", origin));
}

// Null where there is no such file.
std::shared_ptr<const ChatTemplate> template_of_file(const std::filesystem::path& path) {
  return std::filesystem::is_regular_file(path) ? ChatTemplate::parse(read_file(path), path.string()) : nullptr;
}

}  // namespace

std::shared_ptr<const ChatTemplate> ChatTemplate::parse(std::string source, std::string origin) {
  return std::make_shared<JinjaTemplate>(std::move(source), std::move(origin));
}

std::shared_ptr<const ChatTemplate> load_chat_template(const std::filesystem::path& model_folder) {
  if (auto own = template_of_file(model_folder / "chat_template.jinja")) {
    return join_templates(own, template_of_file(model_folder / kMoreTemplates / kToolTemplate));
  }
  const std::filesystem::path config = model_folder / "tokenizer_config.json";
  return std::filesystem::is_regular_file(config) ? template_of_config(config) : nullptr;
}

std::shared_ptr<const ChatTemplate> choose_chat_template(const std::string& choice,
                                                         const std::filesystem::path& model_folder) {
  if (choice == "auto") {
    if (auto own = load_chat_template(model_folder)) return own;
    throw UsageError(
        fmt::format("{}: the model has no chat template; name one with chat_template: {} or the path of a "
                    "Jinja file",
                    model_folder.string(), builtin_chat_template_names()));
  }
  const std::string_view builtin = builtin_chat_template(choice);
  if (!builtin.empty()) return ChatTemplate::parse(std::string(builtin), fmt::format("<{}>", choice));
  if (auto named = template_of_file(choice)) return named;
  if (!std::filesystem::is_directory(choice)) {
    throw UsageError(fmt::format("chat_template: '{}' is neither auto, {} nor a file or model folder", choice,
                                 builtin_chat_template_names()));
  }
  if (auto theirs = load_chat_template(choice)) return theirs;
  throw UsageError(fmt::format("chat_template: the folder {} holds no chat template", choice));
}

}  // namespace qlora
