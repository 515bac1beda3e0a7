// The chat templates that come with the program.
#pragma once

#include <string>
#include <string_view>

namespace qlora {

// The Jinja source of "chatml", "llama3" or "alpaca"; empty for other names.
std::string_view builtin_chat_template(std::string_view name);

// "chatml, llama3, alpaca"
std::string builtin_chat_template_names();

}  // namespace qlora
