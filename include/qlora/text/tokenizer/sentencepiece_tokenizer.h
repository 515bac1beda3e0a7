// A SentencePiece tokenizer.model, through the sentencepiece library.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "qlora/text/tokenizer.h"

namespace qlora {

// What a model folder says beside the model.
struct SentencePieceOptions {
  // What stands around a text with add_special_tokens.
  bool add_bos = true;
  bool add_eos = false;
  // Control symbols ("<s>") are found in the text, as user-defined symbols are. No prefix (U+2581) stands behind one.
  bool special_everywhere = false;
  struct Added {
    std::string content;
    bool special = false;
  };
  std::map<std::int32_t, Added> added;  // by id, from the model's size on; found in the text
};

// Encodes and decodes as the package's encode() and decode() do, but for what `options` add. Special are control
// symbols, the unknown one, and added tokens that say so. DataError where the file is no model.
std::unique_ptr<Tokenizer> read_sentencepiece(const std::filesystem::path& file, SentencePieceOptions options);

}  // namespace qlora
