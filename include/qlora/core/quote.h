// Names from files, as they may appear in a message on a terminal.
#pragma once

#include <string>
#include <string_view>

namespace qlora {

// In single quotes; control characters as \xNN, what is longer than 200 bytes cut (never inside a UTF-8 sequence).
std::string quote_name(std::string_view name);

}  // namespace qlora
