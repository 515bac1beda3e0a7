// ChatML, Llama 3 and Alpaca, each as a Jinja template.
#include "qlora/text/chat_template_builtin.h"

#include <utility>

namespace qlora {
namespace {

constexpr std::string_view kChatml = R"jinja({%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\n' + (message.content or '') + '<|im_end|>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\n' }}
{%- endif -%}
)jinja";

constexpr std::string_view kLlama3 = R"jinja({{- bos_token -}}
{%- for message in messages -%}
{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + (message.content or '') | trim + '<|eot_id|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif -%}
)jinja";

// A system message stands before the instruction; answers end with the end token.
constexpr std::string_view kAlpaca = R"jinja({{- bos_token -}}
{%- for message in messages -%}
{%- if message.role == 'system' -%}
{{ message.content + '\n\n' }}
{%- elif message.role == 'user' -%}
{{ '### Instruction:\n' + message.content + '\n\n' }}
{%- elif message.role == 'input' -%}
{{ '### Input:\n' + message.content + '\n\n' }}
{%- elif message.role == 'assistant' -%}
{{ '### Response:\n' + message.content + eos_token }}
{%- if not loop.last -%}
{{ '\n\n' }}
{%- endif -%}
{%- else -%}
{{ raise_exception("the alpaca template knows the roles system, user, input and assistant, not '" + message.role + "'") }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '### Response:\n' }}
{%- endif -%}
)jinja";

constexpr std::pair<std::string_view, std::string_view> kTemplates[] = {
    {"chatml", kChatml}, {"llama3", kLlama3}, {"alpaca", kAlpaca}};

}  // namespace

std::string_view builtin_chat_template(std::string_view name) {
  for (const auto& [known, source] : kTemplates) {
    if (known == name) return source;
  }
  return {};
}

std::string builtin_chat_template_names() {
  std::string names;
  for (const auto& [name, source] : kTemplates) names += (names.empty() ? "" : ", ") + std::string(name);
  return names;
}

}  // namespace qlora
