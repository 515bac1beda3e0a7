// What one pass through a model works on: tokens of several rows, packed without padding.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace qlora {

class KvCache;

// What buffers are planned for. Batches of one bucket share a plan.
struct BatchShape {
  std::int64_t tokens = 0;    // T, the bucket's size: rows of every activation
  std::int64_t labelled = 0;  // M, the most rows that go through the output head
  at::Device device = at::kCPU;
  std::int64_t rows = 0;    // the most rows and
  std::int64_t length = 0;  // the longest of them: no buffer rests on them, only OperationPlan::workspace
  bool lean = false;        // backward passes take little workspace rather than little time

  friend bool operator==(const BatchShape&, const BatchShape&) = default;
};

// T real tokens of S rows, then a tail up to the bucket's size that belongs to no row: its activations stay finite, its
// gradients are zero, nothing counts it.
struct Batch {
  at::Tensor ids;        // int64 [T], 0 in the tail
  at::Tensor positions;  // int64 [T], restarting at 0 in each row
  at::Tensor bounds;     // int32 [S+1] on the device: row s is [bounds[s], bounds[s+1])
  at::Tensor labelled;   // int64 [M]: the tokens whose next token is predicted
  at::Tensor targets;    // int64 [M]: what they predict, -1: nothing, it counts for nothing; undefined for logits alone
  std::vector<std::int64_t> row_bounds;  // `bounds` on the host
  std::vector<std::int64_t> row_keys;    // [S] the row's index in the effective batch: the key of its dropout masks
  std::int64_t max_length = 0;           // of the longest row
  double loss_scale = 1.0;               // 1 / labelled tokens of the whole effective batch
  std::uint64_t step = 0;                // optimizer step: the key of dropout masks
  bool training = false;                 // dropout is on
  bool lean = false;                     // as BatchShape::lean

  // What kernels read on the GPU in place of the host's fields, so that a captured graph sees each replay's values.
  // Undefined where only ATen forms will run.
  at::Tensor token_rows;   // int32 [T]: the key of each token's row, -1 in the tail
  at::Tensor step_number;  // int32 [1]: `step`
  at::Tensor loss_factor;  // float32 [1]: `loss_scale`
  at::Tensor storage;      // uint8: where all tensors of the batch lie

  // Generation: rows continue what the cache holds. Null in training.
  KvCache* cache = nullptr;
  std::vector<std::int64_t> cache_slots;  // [S] the slot of each row
  at::Tensor slots;                       // int64 [T] the slot of each token; in the tail the cache's spare one
  at::Tensor slot_begins;   // int32 [S+1] on a GPU: the first token of each row's slot in the cache, then 0
  at::Tensor slot_lengths;  // int32 [S] on a GPU: what each row's slot holds, the row's tokens among it

  std::int64_t real_tokens() const { return row_bounds.empty() ? 0 : row_bounds.back(); }
  std::int64_t sequences() const { return static_cast<std::int64_t>(row_bounds.size()) - 1; }
  // Every row brings one token: a step of decoding, where all tokens are treated alike.
  bool decodes() const { return cache != nullptr && real_tokens() == sequences(); }
};

// The bucket of a token count: at most a sixteenth more, so that few plans serve all batches.
std::int64_t token_bucket(std::int64_t tokens);

// The bucket of a count that costs little (rows, lengths): at most a quarter more.
std::int64_t coarse_bucket(std::int64_t count);

// The bucket of what is an upper bound alone: the next power of two.
std::int64_t power_of_two(std::int64_t count);

}  // namespace qlora
