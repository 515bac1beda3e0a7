#include "qlora/train/device_batch.h"

#include <algorithm>

#include "qlora/nn/packer.h"
#include "qlora/nn/program_cache.h"

namespace qlora {
namespace {

// The row key of each token.
std::vector<std::int32_t> token_rows(const PackedBatch& packed) {
  std::vector<std::int32_t> rows;
  for (std::size_t s = 0; s + 1 < packed.bounds.size(); ++s) {
    rows.insert(rows.end(), static_cast<std::size_t>(packed.bounds[s + 1] - packed.bounds[s]),
                static_cast<std::int32_t>(packed.rows[s]));
  }
  return rows;
}

}  // namespace

Batch to_device_batch(const PackedBatch& packed, std::int64_t targets_of_step, std::uint64_t step, bool training,
                      at::Device device, double scale) {
  const auto labelled = static_cast<std::int64_t>(packed.targets.size());
  const BatchShape bucket = bucket_shape(packed.tokens(), labelled, device);
  const bool cuda = device.is_cuda();
  const std::int64_t tokens = bucket.tokens;
  const std::int64_t rows = cuda ? coarse_bucket(packed.sequences()) : packed.sequences();
  const std::int64_t targets = cuda ? bucket.labelled : labelled;

  Packer packer(device);
  const auto ids = packer.reserve<std::int64_t>(tokens);
  const auto positions = packer.reserve<std::int64_t>(tokens);
  const auto labelled_part = packer.reserve<std::int64_t>(targets);
  const auto target_ids = packer.reserve<std::int64_t>(targets);
  const auto bounds = packer.reserve<std::int32_t>(rows + 1);
  const auto row_of_token = packer.reserve<std::int32_t>(tokens);
  const auto step_number = packer.reserve<std::int32_t>(1);
  const auto loss_factor = packer.reserve<float>(1);
  packer.allocate();

  Batch batch;
  batch.row_bounds.assign(packed.bounds.begin(), packed.bounds.end());
  batch.row_keys.assign(packed.rows.begin(), packed.rows.end());
  // An upper bound is all that attention needs on a GPU: few of them, so that few CUDA graphs serve all batches.
  batch.max_length = cuda ? power_of_two(packed.max_length()) : packed.max_length();
  batch.loss_scale = scale / static_cast<double>(std::max<std::int64_t>(targets_of_step, 1));
  batch.step = step;
  batch.training = training;

  packer.fill<std::int64_t>(ids, packed.ids, 0);
  packer.fill<std::int64_t>(positions, packed.positions, 0);
  // What is added up to the bucket predicts nothing, from the last token, which no row's target stands behind.
  packer.fill<std::int64_t>(labelled_part, packed.targets, packed.tokens() - 1);
  packer.fill<std::int64_t>(target_ids, packed.target_ids, -1);
  packer.fill<std::int32_t>(bounds, packed.bounds, packed.bounds.back());
  packer.fill<std::int32_t>(row_of_token, token_rows(packed), -1);
  packer.fill<std::int32_t>(step_number, std::vector<std::int32_t>{}, static_cast<std::int32_t>(step));
  packer.fill<float>(loss_factor, std::vector<float>{}, static_cast<float>(batch.loss_scale));
  packer.send();

  batch.ids = packer.view(ids);
  batch.positions = packer.view(positions);
  batch.labelled = packer.view(labelled_part);
  batch.targets = packer.view(target_ids);
  batch.bounds = packer.view(bounds);
  batch.token_rows = packer.view(row_of_token);
  batch.step_number = packer.view(step_number);
  batch.loss_factor = packer.view(loss_factor);
  batch.storage = packer.storage();
  return batch;
}

}  // namespace qlora
