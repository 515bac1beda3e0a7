// What answering takes beside the weights, known before it begins.
#pragma once

#include <cstdint>
#include <optional>

#include "qlora/generate/options.h"
#include "qlora/models/decoder.h"

namespace qlora {

// Rows of tokens that pass through a decoder together.
struct PassSize {
  std::int64_t tokens = 0;
  std::int64_t predicted = 0;    // tokens whose next one is
  std::int64_t rows = 0;         // cache slots; 0: no cache
  std::int64_t longest_row = 0;  // tokens, with those that are generated
};

// Bytes on the device of one pass: the cache, the arena of what is computed, and what an operation takes besides.
std::int64_t pass_bytes(const Decoder& decoder, HeadKind head, const PassSize& size);

// Of a Generator over so many prompts, at most: the cache of all its slots and a pass over prompts.
std::int64_t generator_bytes(const Decoder& decoder, const GenerateOptions& options, std::int64_t prompts,
                             std::int64_t longest_prompt);

// Of a ChoiceScorer over so many questions, at most.
std::int64_t choice_scorer_bytes(const Decoder& decoder, std::optional<std::int64_t> batch_size, std::int64_t questions,
                                 std::int64_t longest_question);

}  // namespace qlora
