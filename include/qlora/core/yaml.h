// YAML in, with places; YAML out, such that it loads back to the same.
#pragma once

#include <filesystem>
#include <string>

#include "qlora/core/json.h"
#include "qlora/core/value.h"

namespace qlora {

// `origin` names the text in errors and places. Throws UsageError "origin:line:column: what is wrong" for broken YAML,
// more than one document, or what grows beyond 100,000 values through aliases.
Value parse_yaml(const std::string& text, const std::string& origin);

// Reads a whole file. Throws UsageError where it cannot be read.
Value read_yaml(const std::filesystem::path& path);

// One value on one line: plain where that is safe, else quoted; lists and maps in flow style, which is JSON.
std::string yaml_line(const Json& value);

}  // namespace qlora
