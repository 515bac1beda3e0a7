// What a run needs at most, known before its first step.
#pragma once

#include <cstdint>
#include <vector>

#include "qlora/data/batches.h"
#include "qlora/nn/program.h"
#include "qlora/train/options.h"

namespace qlora {

struct LargestBatch {
  BatchShape shape;   // of its bucket
  PackedBatch batch;  // the micro-batch itself
};

// The micro-batches of the run's first `steps` steps whose shapes no other one reaches in tokens and labels both, the
// most tokens first: whatever else the run meets fits into the memory of one of them.
std::vector<LargestBatch> largest_batches(const PreparedSet& set, const BatchOptions& options, std::int64_t steps,
                                          at::Device device = at::kCPU);

// Bytes of the arena that serves all these batches.
std::int64_t arena_bytes(const std::vector<Block>& blocks, Keep keep, const std::vector<LargestBatch>& batches);

// The policy of every layer: what is asked for; with kAuto the fastest whose arena fits into `budget` bytes, else the
// smallest. The numbers of a run are the same with each.
Keep choose_keep(Checkpointing checkpointing, const std::vector<Block>& blocks,
                 const std::vector<LargestBatch>& batches, std::int64_t budget);

// Bytes that may still be taken on the device; on the CPU also within the process's control group.
std::int64_t free_memory(at::Device device);

}  // namespace qlora
