// Rows of tokens, or what they go on with behind a cache, as the batch of a forward pass.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "qlora/generate/options.h"
#include "qlora/models/decoder.h"
#include "qlora/nn/batch.h"
#include "qlora/nn/kv_cache.h"

namespace qlora {

// A token whose next one is predicted.
struct PredictedToken {
  std::int64_t place = 0;    // in BatchRow::ids
  std::int64_t target = -1;  // the next token; -1: any, where logits are wanted
};

struct BatchRow {
  std::span<const std::int32_t> ids;
  std::int64_t start = 0;  // tokens that stand before them, in the row's slot
  std::int64_t slot = 0;   // of the cache
  std::vector<PredictedToken> predicted;
};

// Tokens of one forward pass over prompts.
inline constexpr std::int64_t kPassTokens = 4096;

// `cache` null: every row is whole, from its first token.
Batch make_row_batch(const std::vector<BatchRow>& rows, KvCache* cache, at::Device device);

// Rows that are answered, and questions whose choices are scored, at a time, where batch_size leaves it open and memory
// allows. A GPU's step grows little with its rows: Qwen1.5-1.8B on an H200 gave 19.5k tokens/s with 64, 28.0k with 256.
inline constexpr std::int64_t kMostAnswers = 64, kMostAnswersOnGpu = 256, kMostQuestions = 256;

// How many cache slots for rows of up to `capacity` tokens fit a quarter of a GPU's free memory, or 1 GiB if that is
// more: at least 1, at most `most`.
std::int64_t cache_slots_for(const Decoder& decoder, std::int64_t capacity, std::int64_t most);

// The slots of a Generator over so many prompts: batch_size, else what fits.
std::int64_t answer_slots(const Decoder& decoder, const GenerateOptions& options, std::int64_t prompts,
                          std::int64_t capacity);

}  // namespace qlora
