// What users read about keys: the help of a command, and the reference page.
#pragma once

#include <string>
#include <vector>

#include "qlora/core/config.h"

namespace qlora {

struct CommandText {
  CommandKeys command;
  std::string summary;
};

// `qlora COMMAND --help`.
std::string help_text(const CommandText& command);

// docs/reference.md: every key of every command, in Markdown.
std::string reference_page(const std::vector<CommandText>& commands);

}  // namespace qlora
