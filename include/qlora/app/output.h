// What commands say on stdout.
#pragma once

#include <string>

#include "qlora/core/json.h"

namespace qlora {

// At once: whoever reads a pipe sees it. What cannot be written is found when the command ends.
void print_text(const std::string& text);

// The object and a line's end. Text that is no UTF-8 has its broken bytes replaced.
std::string json_line(const Json& json);

}  // namespace qlora
