// Names on the Hugging Face Hub, told from paths by their spelling.
#pragma once

#include <string_view>

namespace qlora {

// A user's or a repository's name: letters, digits, '_', '-' and '.', at most 96, the first no '.'.
bool is_hub_word(std::string_view text);

// "owner/name".
bool is_hub_name(std::string_view text);

}  // namespace qlora
