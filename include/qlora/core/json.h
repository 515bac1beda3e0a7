// The one JSON type of the program, and reading a JSON file with errors that say file:line:column.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

namespace qlora {

// Keeps the order of keys, as Python's dict does.
using Json = nlohmann::ordered_json;

// Parses `text`; `origin` names it in errors ("config.json"). Throws DataError "origin:line:column: what is wrong" for
// malformed JSON, broken UTF-8, nesting deeper than 200, or a key that occurs twice in one object. Looking a key up in
// a Json object is linear: not for objects of many thousand keys.
Json parse_json(std::string_view text, const std::string& origin);

// Reads a whole file. Throws DataError where it cannot be read or parsed.
Json read_json(const std::filesystem::path& path);

}  // namespace qlora
