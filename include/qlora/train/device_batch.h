// A packed batch of host vectors as the tensors that a model works on.
#pragma once

#include "qlora/data/batches.h"
#include "qlora/nn/batch.h"

namespace qlora {

// Padded to its bucket. loss_scale is `scale` / `targets_of_step`; `step` keys the dropout masks.
Batch to_device_batch(const PackedBatch& packed, std::int64_t targets_of_step, std::uint64_t step, bool training,
                      at::Device device, double scale = 1.0);

}  // namespace qlora
