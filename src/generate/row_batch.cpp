#include "qlora/generate/row_batch.h"

#include <algorithm>

#include <ATen/ops/tensor.h>

namespace qlora {

Batch make_row_batch(const std::vector<BatchRow>& rows, KvCache* cache, at::Device device) {
  Batch batch;
  std::vector<std::int64_t> ids, positions, labelled, targets;
  batch.row_bounds = {0};
  for (const BatchRow& row : rows) {
    for (const PredictedToken& token : row.predicted) {
      labelled.push_back(static_cast<std::int64_t>(ids.size()) + token.place);
      targets.push_back(token.target);
    }
    for (const std::int32_t id : row.ids) {
      positions.push_back(row.start + static_cast<std::int64_t>(ids.size()) - batch.row_bounds.back());
      ids.push_back(id);
    }
    batch.row_bounds.push_back(static_cast<std::int64_t>(ids.size()));
    batch.max_length = std::max(batch.max_length, row.start + static_cast<std::int64_t>(row.ids.size()));
    if (cache != nullptr) batch.cache_slots.push_back(row.slot);
  }
  const auto bucket = static_cast<std::size_t>(token_bucket(static_cast<std::int64_t>(ids.size())));
  ids.resize(bucket, 0);
  positions.resize(bucket, 0);
  batch.ids = at::tensor(ids, at::kLong).to(device);
  batch.positions = at::tensor(positions, at::kLong).to(device);
  batch.bounds = at::tensor(batch.row_bounds, at::kLong).to(device, at::kInt);
  batch.labelled = at::tensor(labelled, at::kLong).to(device);
  batch.targets = at::tensor(targets, at::kLong).to(device);
  batch.row_keys.assign(rows.size(), 0);
  batch.cache = cache;
  return batch;
}

std::int64_t cache_slots_for(const Decoder& decoder, std::int64_t capacity, std::int64_t most) {
  constexpr std::int64_t kCacheBytes = std::int64_t{1} << 30;
  std::int64_t elements = 1;
  for (const CacheLayer& layer : decoder.cache_layers()) elements += layer.elements(capacity);
  const std::int64_t bytes = elements * static_cast<std::int64_t>(c10::elementSize(decoder.dtype()));
  return std::clamp<std::int64_t>(kCacheBytes / bytes, 1, most);
}

}  // namespace qlora
