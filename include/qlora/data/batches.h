// Which rows make which optimizer step, and those rows as one packed batch without padding.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "qlora/data/prepared_set.h"

namespace qlora {

// The rows of one micro-batch, one after the other. No row sees another: positions restart, bounds part them.
struct PackedBatch {
  std::vector<std::int32_t> ids;        // [T]
  std::vector<std::int32_t> positions;  // [T] from 0 in each row
  std::vector<std::int32_t> bounds;     // [S + 1] row s is the tokens [bounds[s], bounds[s + 1])
  // What is predicted: target_ids[m] is the token that follows token targets[m] in its row, and is labelled. A row's
  // first token has none before it, so it is never predicted.
  std::vector<std::int32_t> targets;     // [M] indices into ids, ascending
  std::vector<std::int32_t> target_ids;  // [M]
  std::vector<std::int32_t> rows;        // [S] the row's index within the effective batch: the key of its dropout masks
  std::vector<std::uint32_t> set_rows;   // [S] the row's index in the prepared set

  std::int64_t tokens() const { return static_cast<std::int64_t>(ids.size()); }
  std::int64_t sequences() const { return static_cast<std::int64_t>(rows.size()); }
  std::int64_t max_length() const;  // of its longest row
};

// `first`: the index of rows[0] within the effective batch.
PackedBatch pack_rows(const PreparedSet& set, std::span<const std::uint32_t> rows, std::int64_t first);

// The rows of one optimizer step, split into micro-batches. The loss is the sum over all targets divided by `targets`,
// however the step is split.
struct StepRows {
  std::vector<std::vector<std::uint32_t>> micro_batches;  // indices into the set
  std::int64_t targets = 0;                               // of the whole effective batch
  std::int64_t tokens = 0;                                // of the whole effective batch

  std::int64_t rows() const;
  // Micro-batch m, its rows keyed by their place in the effective batch.
  PackedBatch batch(const PreparedSet& set, std::size_t m) const;
};

struct BatchOptions {
  std::int64_t batch_size = 1;    // per_device_train_batch_size: rows, or with packing packs, of a micro-batch
  std::int64_t accumulation = 1;  // micro-batches of a step
  bool packing = false;           // rows are packed to `pack_length` tokens, best fit first
  std::int64_t pack_length = 0;   // of a pack; a longer row is a pack of its own
  bool shuffle = true;            // else the set's order; packing then fills packs in that order
  std::uint64_t seed = 0;
};

// One pass over the data: groups of rows in the order in which they are used. A group is a row, or a pack of rows.
class Epoch {
 public:
  // Throws UsageError for options out of range.
  Epoch(const PreparedSet& set, const BatchOptions& options, std::int64_t epoch);

  std::int64_t steps() const;  // a last partial batch is a step
  StepRows step(std::int64_t step) const;
  std::int64_t groups() const { return static_cast<std::int64_t>(group_bounds_.size()) - 1; }

 private:
  const PreparedSet* set_;
  BatchOptions options_;
  std::vector<std::uint32_t> rows_;
  std::vector<std::uint64_t> group_bounds_;
};

// Where training stands; all that a checkpoint must keep of the data.
struct BatchPosition {
  std::int64_t epoch = 0;
  std::int64_t step = 0;  // within the epoch
};

// Optimizer steps without end: epoch after epoch, each in an order of its own that (seed, epoch) alone decide.
class Batcher {
 public:
  // The set must outlive it. Throws UsageError for options out of range or a position behind the epoch's end.
  Batcher(const PreparedSet& set, const BatchOptions& options, BatchPosition position = {});

  std::int64_t steps_per_epoch() const { return epoch_.steps(); }
  // The position of the step that next() will give.
  BatchPosition position() const { return position_; }
  StepRows next();

 private:
  const PreparedSet* set_;
  BatchOptions options_;
  BatchPosition position_;
  Epoch epoch_;
};

// Evaluation: the set's order, batch_size rows at a time, each step one micro-batch.
Epoch evaluation_batches(const PreparedSet& set, std::int64_t batch_size);

}  // namespace qlora
