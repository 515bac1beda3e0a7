// What a model folder says beside a vocabulary file that says less than a tokenizer.json.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace qlora {

struct VocabularyOptions {
  // What stands around a text with add_special_tokens, where the vocabulary has such tokens.
  bool add_bos = true;
  bool add_eos = false;
  // Special tokens ("<s>") are found in the text. With SentencePiece no prefix (U+2581) stands behind one.
  bool special_everywhere = false;
  struct Added {
    std::string content;
    bool special = false;
  };
  std::map<std::int32_t, Added> added;  // by id, from the vocabulary's size on; found in the text
};

}  // namespace qlora
