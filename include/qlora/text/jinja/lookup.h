// How filters look up attributes of items: "a.b", "items.0", several at once.
#pragma once

#include <string_view>
#include <vector>

#include "qlora/text/jinja/runtime.h"

namespace qlora::jinja {

class AttributePath {
 public:
  AttributePath() = default;
  // From an attribute argument: missing or None (the item itself), an int, or a dotted path.
  AttributePath(Render& render, const Value& attribute);

  // `fallback`, unless missing, stands for what is undefined on the way.
  Value get(Render& render, Value item, const Value& fallback = {}) const;

 private:
  std::vector<Value> parts_;
};

// A string in lower case, anything else as it is.
Value ignoring_case(Render& render, const Value& value);

}  // namespace qlora::jinja
