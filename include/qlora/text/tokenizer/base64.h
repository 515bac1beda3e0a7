// Bytes written as base64 (RFC 4648), as vocabularies keep them.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace qlora {

// None where the text is no whole base64 with its padding.
std::optional<std::string> decode_base64(std::string_view text);

}  // namespace qlora
