// A SentencePiece tokenizer.model, through the sentencepiece library.
#pragma once

#include <filesystem>
#include <memory>

#include "qlora/text/tokenizer.h"

namespace qlora {

// What stands around a text with add_special_tokens.
struct SentencePieceFrame {
  bool add_bos = true;
  bool add_eos = false;
};

// Encodes and decodes as the package's encode() and decode() do: user-defined symbols are found in the text, control
// symbols ("<s>") are not. Special are control symbols and the unknown one. DataError where the file is no model.
std::unique_ptr<Tokenizer> read_sentencepiece(const std::filesystem::path& file, SentencePieceFrame frame);

}  // namespace qlora
