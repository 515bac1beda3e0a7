// Batched decoding with a KV cache: slots are refilled as answers end.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "qlora/generate/options.h"
#include "qlora/generate/sampler.h"
#include "qlora/models/decoder.h"
#include "qlora/nn/kv_cache.h"
#include "qlora/nn/program_cache.h"

namespace qlora {

struct Answer {
  std::vector<std::int32_t> ids;  // without the token that ended it
  bool ended = false;             // by a stop token or text; false: max_new_tokens was reached
};

class Generator {
 public:
  struct Settings {
    GenerateOptions options;
    std::vector<std::int32_t> stop_ids;
    std::uint64_t seed = 0;
    // Whether the new tokens so far hold a text at which the answer ends; may be empty.
    std::function<bool(std::span<const std::int32_t>)> stops;
    // Called with each new token of a prompt, its number first; may be empty.
    std::function<void(std::size_t, std::int32_t)> on_token;
    // Called when an answer is complete; may be empty.
    std::function<void(std::size_t, const Answer&)> on_answer;
  };

  Generator(Decoder& decoder, Settings settings);

  // One answer a prompt, in the prompts' order. What a prompt gets does not depend on the others. Throws DataError for
  // an empty prompt, or one that with max_new_tokens would not fit the model's positions.
  std::vector<Answer> generate(const std::vector<std::vector<std::int32_t>>& prompts);

 private:
  struct Row {
    std::size_t prompt;
    std::int32_t next = -1;  // the token that the next pass reads
  };

  std::int64_t slots_for(const std::vector<std::vector<std::int32_t>>& prompts, std::int64_t capacity) const;
  void prefill(const std::vector<std::size_t>& prompts, std::int64_t first_slot);
  void decode();
  void extend(std::size_t begin, std::size_t end);
  bool outgrows_cache(std::size_t row) const;
  void restart(std::size_t row);
  void accept(const at::Tensor& logits, std::size_t begin, std::size_t end);
  void drop_finished();
  Program& run(Batch& batch);

  Decoder& decoder_;
  Settings settings_;
  Sampler sampler_;
  ProgramCache programs_;
  std::unique_ptr<KvCache> cache_;
  const std::vector<std::vector<std::int32_t>>* prompts_ = nullptr;
  std::vector<Answer> answers_;
  std::vector<bool> done_;
  std::vector<Row> rows_;  // row i lives in slot i
};

}  // namespace qlora
