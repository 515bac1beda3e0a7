// A SentencePiece tokenizer.model, through the sentencepiece library.
#pragma once

#include <filesystem>
#include <memory>

#include "qlora/text/tokenizer.h"
#include "qlora/text/tokenizer/vocabulary_options.h"

namespace qlora {

// Encodes and decodes as the package's encode() and decode() do, but for what `options` add. Special are control
// symbols, the unknown one, and added tokens that say so. DataError where the file is no model.
std::unique_ptr<Tokenizer> read_sentencepiece(const std::filesystem::path& file, VocabularyOptions options);

}  // namespace qlora
