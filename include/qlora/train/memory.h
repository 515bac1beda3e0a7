// What a run needs at most, known before its first step.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "qlora/core/json.h"
#include "qlora/data/batches.h"
#include "qlora/models/decoder.h"
#include "qlora/nn/program.h"
#include "qlora/train/options.h"

namespace qlora {

struct LargestBatch {
  BatchShape shape;   // of its bucket
  PackedBatch batch;  // the batch itself
};

// The step's micro-batches with every `count` consecutive ones as one. Rows keep their places in the effective batch,
// so loss, gradients and dropout masks are the same but for rounding.
StepRows merged(const StepRows& step, std::int64_t count);

// The batches of the run's first `steps` steps, micro-batches merged by `merged_count`, whose shapes no other one
// reaches in tokens and labels both, the most tokens first: whatever else the run meets fits into the memory of one of
// them.
std::vector<LargestBatch> largest_batches(const PreparedSet& set, const BatchOptions& options, std::int64_t steps,
                                          at::Device device = at::kCPU, std::int64_t merged_count = 1);

// Bytes for what is computed between weights and gradients.
struct ActivationBytes {
  std::int64_t arena = 0;
  std::int64_t workspace = 0;                               // what an operation takes besides, at most
  std::int64_t host = 0;                                    // blocks' inputs in host memory
  std::int64_t total() const { return arena + workspace; }  // on the device
};

// Of the arena that serves all these batches. `keep`: one policy a block.
ActivationBytes activation_bytes(const std::vector<Block>& blocks, const std::vector<Keep>& keep,
                                 const std::vector<LargestBatch>& batches);

// The policy of each block: what is asked for; with kAuto the fastest that fits into `budget` bytes, block by block,
// else the smallest; with kOn the blocks' inputs are kept, on a GPU as many as do not fit in host memory. The numbers
// of a run are the same with each.
std::vector<Keep> choose_keep(Checkpointing checkpointing, const std::vector<Block>& blocks,
                              const std::vector<LargestBatch>& batches, std::int64_t budget);

// Bytes on the device by kind, once every shape of a run has been met.
struct MemoryBytes {
  std::int64_t weights = 0;      // frozen, as they are stored
  std::int64_t dequantized = 0;  // the buffer that they pass through, and what stays dequantized
  std::int64_t trainable = 0;    // parameters, and the copy that is computed with
  std::int64_t gradients = 0, optimizer = 0;
  std::int64_t activations = 0;
  std::int64_t workspaces = 0;  // of matrix products and attention
  std::int64_t evaluation = 0;  // of eval_tasks: a cache of keys and values, and what is computed with it

  std::int64_t total() const;
  Json to_json() const;      // the kinds by name, and "total"
  std::string text() const;  // in GiB, one line
};

// Bytes in pinned host memory of what a run has moved off its GPU.
struct HostBytes {
  std::int64_t embedding = 0;     // the table, whose rows are read from there
  std::int64_t optimizer = 0;     // moments, which pass through two buffers on the device
  std::int64_t block_inputs = 0;  // which travel beside the steps

  std::int64_t total() const;
  Json to_json() const;      // the kinds by name
  std::string text() const;  // in GiB, one line; what is 0 is left out
};

// How the steps of a run are computed, and what that takes.
struct RunPlan {
  std::int64_t merged = 1;       // micro-batches that run as one batch
  std::vector<Keep> keep;        // of each block
  bool pages_optimizer = false;  // though `optim` does not ask for it
  bool lean = false;             // BatchShape::lean, of all batches
  std::vector<LargestBatch> largest;
  MemoryBytes bytes;
  HostBytes host;
};

// The plan of the run's first `steps` steps, whether or not the weights are there already. Nine tenths of what is free
// may be used, at most max_memory_gib. A GPU is idle for most of a small batch: there as many micro-batches run as one
// as make no more than kMergedTokens tokens and fit, large ones with all costly values kept; none in deterministic
// mode, whose numbers rest on nothing that the machine decides, nor with gradient_checkpointing: true, which asks for
// the least memory. What does not fit on a GPU even if every block is computed again (as far as gradient_checkpointing
// allows) goes to host memory, one after the other: the embedding's table, the optimizer's moments, blocks' inputs.
// Where not even that suffices, attention's backward pass takes its slower form, which needs less workspace (not in
// deterministic mode).
// `evaluation_bytes` come on top of all else. Throws OutOfMemory where max_memory_gib or the host's memory does not
// suffice.
constexpr std::int64_t kMergedTokens = 8192;
RunPlan plan_run(const Decoder& decoder, const TrainOptions& options, const PreparedSet& set,
                 const BatchOptions& batches, std::int64_t steps, std::int64_t evaluation_bytes = 0);

// Bytes that may still be taken on the device; on the CPU also within the process's control group.
std::int64_t free_memory(at::Device device);

// Of a GPU: the most bytes that tensors and workspaces of this process have taken so far, and what the card has lost
// now, to this process's context and to others, too.
std::int64_t peak_allocated(at::Device device);
std::int64_t used_memory(at::Device device);

}  // namespace qlora
