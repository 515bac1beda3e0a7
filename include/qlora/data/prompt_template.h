// `prompt_template`: text with {column} of the row.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "qlora/core/json.h"

namespace qlora {

// Replaces each {name} by value(name); {{ and }} stand for braces, as in Python's str.format. Throws DataError for a
// name without a value and for a lone brace.
std::string fill_prompt_template(std::string_view prompt_template,
                                 const std::function<std::optional<std::string>(const std::string&)>& value);

// With the columns of a row: strings as they are, null as nothing, all else as JSON. `extra` is asked first.
std::string fill_prompt_template(std::string_view prompt_template, const Json& row,
                                 const std::function<std::optional<std::string>(const std::string&)>& extra = {});

// Whether {name} occurs in it.
bool prompt_template_uses(std::string_view prompt_template, std::string_view name);

}  // namespace qlora
