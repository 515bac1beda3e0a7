// Changing one member of a JSON file and nothing else.
#pragma once

#include <string>
#include <string_view>

#include "qlora/core/json.h"

namespace qlora {

// The object `text` with `value` as that member, all else byte for byte as it was: numbers that no double holds stay
// as they were written. Throws DataError as parse_json() does, and where `text` is no object.
std::string with_member(std::string_view text, const std::string& key, const Json& value, const std::string& origin);

}  // namespace qlora
