// ChatML, Llama 3 and Alpaca, each as a Jinja template.
#include "qlora/text/chat_template_builtin.h"

#include <array>

#include <fmt/format.h>

namespace qlora {
namespace {

// Of all three: the text of a message, and a refusal of what would be lost.
constexpr std::string_view kShared = R"jinja({%- macro refuse(what) -%}
{{ raise_exception('this built-in template renders no ' ~ what ~ ': take it out of the row, or name another chat_template') }}
{%- endmacro -%}
{%- macro text(message) -%}
{%- if message.content is string -%}
{{ message.content }}
{%- elif not message.content or message.content is mapping or message.content is not iterable -%}
{{ raise_exception("a turn of role '" ~ message.role ~ "' has no text: its content must be a string or a list of text parts") }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'text' and part.text is string -%}
{{ part.text }}
{%- elif part.type == 'text' -%}
{{ raise_exception("a part of type 'text' has no 'text'") }}
{%- else -%}
{{ refuse("part of type '" ~ part.type ~ "'") }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- if documents -%}
{{ refuse('documents') }}
{%- endif -%}
{%- for message in messages -%}
{%- if message.function_call or message.role == 'function' -%}
{{ refuse('function_call and role function (their newer form, tool_calls and role tool, is rendered by chatml)') }}
{%- endif -%}
{%- endfor -%}
)jinja";

constexpr std::string_view kNoTools = R"jinja({%- if tools -%}
{{ refuse('tools (chatml does)') }}
{%- endif -%}
{%- for message in messages -%}
{%- if message.tool_calls or message.role == 'tool' -%}
{{ refuse('tool_calls and role tool (chatml does)') }}
{%- endif -%}
{%- endfor -%}
)jinja";

// Tools, calls and results in the form of Hermes, which Qwen2.5 and 3 were trained on.
constexpr std::string_view kChatml = R"jinja({%- if tools -%}
{{ '<|im_start|>system\n' }}
{%- if messages and messages[0].role == 'system' -%}
{{ text(messages[0]) + '\n\n' }}
{%- endif -%}
{{ '# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function ' }}
{{- 'signatures within <tools></tools> XML tags:\n<tools>' }}
{%- for tool in tools -%}
{{ '\n' + tool | tojson }}
{%- endfor -%}
{{ '\n</tools>\n\nFor each function call, return a json object with function name and arguments within ' }}
{{- '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n' }}
{{- '</tool_call><|im_end|>\n' }}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'tool' -%}
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' -%}
{{ '<|im_start|>user' }}
{%- endif -%}
{{ '\n<tool_response>\n' + text(message) + '\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' -%}
{{ '<|im_end|>\n' }}
{%- endif -%}
{%- elif not (tools and loop.first and message.role == 'system') -%}
{{ '<|im_start|>' + message.role }}
{%- if message.content or not message.tool_calls -%}
{{ '\n' + text(message) }}
{%- endif -%}
{%- for tool_call in message.tool_calls or [] -%}
{%- set call = tool_call.function or tool_call -%}
{%- set arguments = call.arguments if call.arguments is string else call.arguments | tojson -%}
{{ '\n<tool_call>\n{"name": "' + call.name + '", "arguments": ' + arguments + '}\n</tool_call>' }}
{%- endfor -%}
{{ '<|im_end|>\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\n' }}
{%- endif -%}
)jinja";

constexpr std::string_view kLlama3 = R"jinja({{- bos_token -}}
{%- for message in messages -%}
{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + text(message) | trim + '<|eot_id|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif -%}
)jinja";

// A system message stands before the headings; answers end with the end token.
constexpr std::string_view kAlpaca = R"jinja({{- bos_token -}}
{%- set headings = {'user': '### Instruction:\n', 'input': '### Input:\n', 'context': '### Context:\n'} -%}
{%- for message in messages -%}
{%- if message.role == 'system' -%}
{{ text(message) + '\n\n' }}
{%- elif message.role in headings -%}
{{ headings[message.role] + text(message) + '\n\n' }}
{%- elif message.role == 'assistant' -%}
{{ '### Response:\n' + text(message) + eos_token }}
{%- if not loop.last -%}
{{ '\n\n' }}
{%- endif -%}
{%- else -%}
{{ raise_exception("the alpaca template knows the roles system, user, input, context and assistant, not '" + message.role + "'") }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '### Response:\n' }}
{%- endif -%}
)jinja";

struct BuiltinTemplate {
  std::string_view name;
  std::string source;
};

const std::array<BuiltinTemplate, 3>& templates() {
  static const std::array<BuiltinTemplate, 3> all = {{{"chatml", fmt::format("{}{}", kShared, kChatml)},
                                                      {"llama3", fmt::format("{}{}{}", kShared, kNoTools, kLlama3)},
                                                      {"alpaca", fmt::format("{}{}{}", kShared, kNoTools, kAlpaca)}}};
  return all;
}

}  // namespace

std::string_view builtin_chat_template(std::string_view name) {
  for (const auto& [known, source] : templates()) {
    if (known == name) return source;
  }
  return {};
}

std::string builtin_chat_template_names() {
  std::string names;
  for (const auto& [name, source] : templates()) names += (names.empty() ? "" : ", ") + std::string(name);
  return names;
}

}  // namespace qlora
