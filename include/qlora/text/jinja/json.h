// The filter tojson, as transformers has it: Python's json.dumps with ensure_ascii=False.
#pragma once

#include <optional>
#include <string>

#include "qlora/text/jinja/value.h"

namespace qlora::jinja {

struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  std::optional<std::string> indent;  // of one level
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};

// Appends to out. Fails for values that json.dumps refuses.
void append_json(Budget& budget, std::string& out, const Value& value, const JsonStyle& style);

}  // namespace qlora::jinja
