#include "qlora/train/device_batch.h"

#include <algorithm>

#include <ATen/ops/tensor.h>

namespace qlora {
namespace {

at::Tensor indices(const std::vector<std::int32_t>& values, std::size_t size, at::Device device) {
  std::vector<std::int64_t> wide(values.begin(), values.end());
  wide.resize(size, 0);
  return at::tensor(wide, at::kLong).to(device);
}

}  // namespace

Batch to_device_batch(const PackedBatch& packed, std::int64_t targets_of_step, std::uint64_t step, bool training,
                      at::Device device) {
  const auto bucket = static_cast<std::size_t>(token_bucket(packed.tokens()));
  Batch batch;
  batch.ids = indices(packed.ids, bucket, device);
  batch.positions = indices(packed.positions, bucket, device);
  batch.bounds = at::tensor(packed.bounds, at::kInt).to(device);
  batch.labelled = indices(packed.targets, packed.targets.size(), device);
  batch.targets = indices(packed.target_ids, packed.target_ids.size(), device);
  batch.row_bounds.assign(packed.bounds.begin(), packed.bounds.end());
  batch.row_keys.assign(packed.rows.begin(), packed.rows.end());
  batch.max_length = packed.max_length();
  batch.loss_scale = 1.0 / static_cast<double>(std::max<std::int64_t>(targets_of_step, 1));
  batch.step = step;
  batch.training = training;
  return batch;
}

}  // namespace qlora
