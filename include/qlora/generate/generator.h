// Continuous batching: slots of a KV cache are refilled as answers end, and what prompts have in common is computed
// once.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include <c10/core/Event.h>

#include "qlora/generate/device_sampler.h"
#include "qlora/generate/options.h"
#include "qlora/models/decoder.h"
#include "qlora/nn/kv_cache.h"
#include "qlora/nn/program_runner.h"

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
    bool graphs = true;           // steps of decoding on a GPU as CUDA graphs
    bool shares_prefixes = true;  // what prompts begin with in common is computed once
    // Whether the new tokens so far hold a text at which the answer ends; may be empty.
    std::function<bool(std::span<const std::int32_t>)> stops;
    // Called with each new token of a prompt, its number first; may be empty.
    std::function<void(std::size_t, std::int32_t)> on_token;
    // Called when an answer is complete; may be empty.
    std::function<void(std::size_t, const Answer&)> on_answer;
  };

  // What generate() did, of all its passes.
  struct Counts {
    std::int64_t prompt_tokens = 0;  // that were computed
    std::int64_t shared_tokens = 0;  // that were there already
    std::int64_t prefills = 0, steps = 0;
    std::int64_t graphs = 0;  // captured
  };

  Generator(Decoder& decoder, Settings settings);

  // One answer a prompt, in the prompts' order. What a prompt gets does not depend on the others: in float32 and
  // float64 on the CPU to the last bit. Throws DataError for an empty prompt, or one that with max_new_tokens would not
  // fit the model's positions.
  std::vector<Answer> generate(const std::vector<std::vector<std::int32_t>>& prompts);

  const Counts& counts() const { return counts_; }

 private:
  // A prompt that is being answered.
  struct Row {
    std::size_t prompt;
    std::int64_t slot;
    std::int64_t drawn = 0;  // tokens of its answer, on their way to the host among them
  };
  // Tokens on their way to the host.
  struct Drawn {
    std::vector<std::size_t> prompts;
    at::Tensor tokens;  // int64 on the host
    std::unique_ptr<c10::Event> there;
  };
  struct Prefix {
    std::int64_t slot = -1;
    std::int64_t tokens = 0;
  };

  std::vector<std::size_t> order_of(const std::vector<std::vector<std::int32_t>>& prompts) const;
  bool may_share() const;
  std::int64_t common(std::size_t prompt, std::size_t other) const;
  Prefix longest_prefix(std::size_t prompt) const;
  bool worth_waiting(std::size_t prompt, std::int64_t there, const std::vector<Row>& starting) const;
  bool admits() const;
  std::vector<Row> take_waiting();
  void prefill(std::vector<Row> starting);
  std::vector<Row> take_outgrown();
  void decode();
  at::Tensor run(ProgramRunner& runner, const Batch& batch, std::vector<Row>& rows);
  void send(const std::vector<Row>& rows, const at::Tensor& tokens);
  void receive(std::size_t in_flight);
  void accept(const Drawn& drawn);
  void keep_rows(const std::function<bool(const Row&)>& stays);
  void drop_finished();

  Decoder& decoder_;
  Settings settings_;
  Counts counts_;

  // Of one call of generate().
  const std::vector<std::vector<std::int32_t>>* prompts_ = nullptr;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<DeviceSampler> sampler_;
  std::unique_ptr<ProgramCache> prefill_programs_, decode_programs_;
  std::unique_ptr<ProgramRunner> prefill_runner_, decode_runner_;
  std::vector<Answer> answers_;
  std::vector<bool> done_;
  std::deque<std::size_t> waiting_;
  std::vector<std::int64_t> free_slots_;
  std::vector<std::int64_t> prompt_in_slot_;  // whose tokens a slot holds; -1: nobody's
  std::vector<Row> rows_;
  at::Tensor next_;  // int64 [rows] on the device: the token that each row's next step reads
  std::deque<Drawn> drawn_;
};

}  // namespace qlora
