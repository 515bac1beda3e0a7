#include "qlora/generate/memory.h"

#include <algorithm>

#include "qlora/generate/row_batch.h"
#include "qlora/nn/program_cache.h"
#include "qlora/nn/rms_norm.h"

namespace qlora {
namespace {

// A cache has one slot more than rows: what a bucket's empty places write goes there.
std::int64_t cache_bytes(const Decoder& decoder, std::int64_t slots, std::int64_t capacity) {
  if (slots == 0) return 0;
  const auto size = static_cast<std::int64_t>(c10::elementSize(decoder.dtype()));
  const auto wide = static_cast<std::int64_t>(c10::elementSize(accumulation_dtype(decoder.dtype())));
  std::int64_t bytes = 0;
  for (const CacheLayer& layer : decoder.cache_layers())
    bytes += layer.elements(capacity) * size + layer.elements(0) * (wide - size);
  return (slots + 1) * bytes;
}

}  // namespace

std::int64_t pass_bytes(const Decoder& decoder, HeadKind head, const PassSize& size) {
  const auto& blocks = decoder.blocks(head);
  BatchShape shape = bucket_shape(size.tokens, size.predicted, decoder.device());
  shape.rows = std::max<std::int64_t>(size.rows, 1);
  shape.length = size.longest_row;
  const Program program(blocks, shape, Pass::kForward, uniform_keep(blocks, Keep::kAll));
  return cache_bytes(decoder, size.rows, size.longest_row) + program.arena_bytes() + program.workspace_bytes();
}

std::int64_t generator_bytes(const Decoder& decoder, const GenerateOptions& options, std::int64_t prompts,
                             std::int64_t longest_prompt) {
  if (prompts == 0) return 0;
  const std::int64_t capacity = longest_prompt + options.max_new_tokens;
  const std::int64_t slots = answer_slots(decoder, options, prompts, capacity);
  const std::int64_t tokens = std::max(longest_prompt, std::min(kPassTokens, slots * longest_prompt));
  return pass_bytes(decoder, HeadKind::kLogits, {tokens, slots, slots, capacity});
}

std::int64_t choice_scorer_bytes(const Decoder& decoder, std::optional<std::int64_t> batch_size, std::int64_t questions,
                                 std::int64_t longest_question) {
  if (questions == 0) return 0;
  const std::int64_t most = std::min(questions, batch_size.value_or(kMostQuestions));
  const std::int64_t slots = std::max<std::int64_t>(2, cache_slots_for(decoder, longest_question, most + 1));
  const std::int64_t tokens = std::max(longest_question, std::min(kPassTokens, slots * longest_question));
  return pass_bytes(decoder, HeadKind::kNll, {tokens, std::min(tokens, 4 * slots), slots, longest_question});
}

}  // namespace qlora
