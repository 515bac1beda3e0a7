// The field "post_processor" of tokenizer.json: the special tokens around an encoded text.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "qlora/text/tokenizer/json_node.h"

namespace qlora {

// What stands before and after the text's own tokens. Offsets are never trimmed (trim_offsets), since spans say which
// bytes a token really stands for.
struct SpecialFrame {
  std::vector<std::int32_t> before;
  std::vector<std::int32_t> after;
};

SpecialFrame read_post_processor(const JsonNode& node);

}  // namespace qlora
