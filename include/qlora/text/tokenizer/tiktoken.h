// Byte vocabularies whose ids are ranks: tiktoken's files and Mistral's tekken.json.
#pragma once

#include <filesystem>
#include <memory>
#include <string_view>

#include "qlora/text/tokenizer.h"
#include "qlora/text/tokenizer/vocabulary_options.h"

namespace qlora {

// Whether a file's first line is a base64 token, a space and its rank.
bool is_tiktoken(std::string_view bytes);

// Of two neighbours the pair whose bytes have the lowest rank is merged first, the leftmost of equal ones; a whole
// piece that is a token stays one. A tiktoken file says neither how text is split nor which tokens are special: both
// are known here for Llama 3 and Qwen, told by the number of ranks; DataError for others. Tokens that the
// folder adds come beside them, or in the place of those with the same id.
std::unique_ptr<Tokenizer> read_tiktoken(const std::filesystem::path& file, const VocabularyOptions& options);

// Ids are those of `mistral-common`: the special tokens, then the ranks, then what the folder adds.
std::unique_ptr<Tokenizer> read_tekken(const std::filesystem::path& file, const VocabularyOptions& options);

}  // namespace qlora
