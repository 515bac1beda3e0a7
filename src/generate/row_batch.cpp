#include "qlora/generate/row_batch.h"

#include <algorithm>
#include <bit>

#include "qlora/nn/kernels.h"
#include "qlora/nn/packer.h"

namespace qlora {
namespace {

// On the CPU products of fewer than 12 rows, but for multiples of this, sum some rows in another order: what a row gets
// would rest on the batch.
constexpr std::int64_t kRowsOfProduct = 4;

struct HostBatch {
  std::vector<std::int64_t> ids, positions, labelled, targets, slots;
  std::vector<std::int32_t> bounds{0}, slot_begins, slot_lengths;
  std::int64_t longest = 0;

  void add(const BatchRow& row, const KvCache* cache) {
    const auto begin = static_cast<std::int64_t>(ids.size());
    for (const PredictedToken& token : row.predicted) {
      labelled.push_back(begin + token.place);
      targets.push_back(token.target);
    }
    for (const std::int32_t id : row.ids) {
      positions.push_back(row.start + static_cast<std::int64_t>(ids.size()) - begin);
      ids.push_back(id);
      slots.push_back(row.slot);
    }
    const std::int64_t length = row.start + static_cast<std::int64_t>(row.ids.size());
    bounds.push_back(static_cast<std::int32_t>(ids.size()));
    slot_begins.push_back(cache != nullptr ? static_cast<std::int32_t>(row.slot * cache->capacity()) : 0);
    slot_lengths.push_back(static_cast<std::int32_t>(length));
    longest = std::max(longest, length);
  }
};

}  // namespace

Batch make_row_batch(const std::vector<BatchRow>& rows, KvCache* cache, at::Device device) {
  HostBatch host;
  for (const BatchRow& row : rows) host.add(row, cache);
  const auto count = static_cast<std::int64_t>(host.ids.size());
  const auto predictions = static_cast<std::int64_t>(host.labelled.size());
  const bool decodes = cache != nullptr && host.ids.size() == rows.size();

  // A step of decoding on a GPU is a CUDA graph: few shapes, which rest on the number of rows alone.
  const bool fixed = decodes && device.is_cuda();
  constexpr std::uint64_t kSmallestBucket = 16;
  const auto few = static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(count)));
  const std::int64_t tokens = fixed && few < static_cast<std::int64_t>(kSmallestBucket) ? few : token_bucket(count);
  const std::int64_t labelled = fixed             ? tokens
                                : device.is_cpu() ? (predictions + kRowsOfProduct - 1) / kRowsOfProduct * kRowsOfProduct
                                                  : predictions;
  const std::int64_t sequences = fixed ? tokens : static_cast<std::int64_t>(rows.size());

  Packer packer(device);
  const auto ids = packer.reserve<std::int64_t>(tokens);
  const auto positions = packer.reserve<std::int64_t>(tokens);
  const auto slots = packer.reserve<std::int64_t>(tokens);
  const auto places = packer.reserve<std::int64_t>(labelled);
  const auto targets = packer.reserve<std::int64_t>(labelled);
  const auto bounds = packer.reserve<std::int32_t>(sequences + 1);
  const auto slot_begins = packer.reserve<std::int32_t>(sequences + 1);
  const auto slot_lengths = packer.reserve<std::int32_t>(sequences);
  packer.allocate();
  packer.fill<std::int64_t>(ids, host.ids, 0);
  packer.fill<std::int64_t>(positions, host.positions, 0);
  packer.fill<std::int64_t>(slots, host.slots, cache != nullptr ? cache->spare_slot() : 0);
  packer.fill<std::int64_t>(places, host.labelled, 0);
  packer.fill<std::int64_t>(targets, host.targets, -1);
  packer.fill<std::int32_t>(bounds, host.bounds, host.bounds.back());
  packer.fill<std::int32_t>(slot_begins, host.slot_begins, 0);
  packer.fill<std::int32_t>(slot_lengths, host.slot_lengths, 0);
  packer.send();

  Batch batch;
  batch.ids = packer.view(ids);
  batch.positions = packer.view(positions);
  batch.slots = packer.view(slots);
  batch.labelled = packer.view(places);
  batch.targets = packer.view(targets);
  batch.bounds = packer.view(bounds);
  batch.slot_begins = packer.view(slot_begins);
  batch.slot_lengths = packer.view(slot_lengths);
  if (fixed) batch.storage = packer.storage();
  batch.row_bounds.assign(host.bounds.begin(), host.bounds.end());
  batch.row_keys.assign(rows.size(), 0);
  batch.max_length = fixed ? cache->capacity() : host.longest;
  batch.cache = cache;
  if (cache != nullptr) {
    for (const BatchRow& row : rows) batch.cache_slots.push_back(row.slot);
  }
  return batch;
}

std::int64_t cache_slots_for(const Decoder& decoder, std::int64_t capacity, std::int64_t most) {
  constexpr std::int64_t kLeastBytes = std::int64_t{1} << 30;
  const std::int64_t room = std::max(kLeastBytes, gpu::free_bytes(decoder.device()) / 4);
  std::int64_t elements = 1;
  for (const CacheLayer& layer : decoder.cache_layers()) elements += layer.elements(capacity);
  const std::int64_t bytes = elements * static_cast<std::int64_t>(c10::elementSize(decoder.dtype()));
  return std::clamp<std::int64_t>(room / bytes, 1, most);
}

std::int64_t answer_slots(const Decoder& decoder, const GenerateOptions& options, std::int64_t prompts,
                          std::int64_t capacity) {
  if (options.batch_size) return std::min(prompts, *options.batch_size);
  const bool many = decoder.device().is_cuda() && !options.beside_training;
  return cache_slots_for(decoder, capacity, std::min(prompts, many ? kMostAnswersOnGpu : kMostAnswers));
}

}  // namespace qlora
