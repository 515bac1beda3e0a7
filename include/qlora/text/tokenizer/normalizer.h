// The field "normalizer" of tokenizer.json: changes of the text before it is split.
#pragma once

#include <memory>

#include "qlora/text/tokenizer/aligned_text.h"
#include "qlora/text/tokenizer/json_node.h"

namespace qlora {

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  virtual void apply(AlignedText& text) const = 0;
};

// By "type"; DataError naming file and path for an unknown one.
std::unique_ptr<Normalizer> make_normalizer(const JsonNode& node);

// Factories, one a kind; the table in normalizer.cpp names them.
std::unique_ptr<Normalizer> make_unicode_normalizer(const JsonNode& node);  // NFC, NFD, NFKC, NFKD
std::unique_ptr<Normalizer> make_prepend(const JsonNode& node);
std::unique_ptr<Normalizer> make_replace(const JsonNode& node);
std::unique_ptr<Normalizer> make_strip(const JsonNode& node);
std::unique_ptr<Normalizer> make_lowercase(const JsonNode& node);
std::unique_ptr<Normalizer> make_precompiled(const JsonNode& node);

}  // namespace qlora
