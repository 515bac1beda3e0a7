// Hand-written scanners for the split patterns of GPT-2, Qwen2 and Llama-3: what their regular expressions match,
// faster.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "qlora/text/tokenizer/pre_tokenizer.h"

namespace qlora {

enum class KnownPattern { kGpt2, kQwen2, kLlama3 };

// GPT-2's pattern, which the pre-tokenizer ByteLevel has built in.
extern const std::string_view kGpt2Pattern;

// The known pattern that is spelt so.
std::optional<KnownPattern> find_known_pattern(std::string_view pattern);
std::string_view pattern_text(KnownPattern pattern);

// Appends the matches of the pattern in valid UTF-8; they cover the text whole.
void scan_known_pattern(KnownPattern pattern, std::string_view text, std::uint32_t offset, std::vector<TextPiece>& out);

}  // namespace qlora
