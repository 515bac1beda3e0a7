#include "qlora/data/batches.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <set>

#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/data/random.h"

namespace qlora {
namespace {

constexpr std::uint64_t kOrderStream = 1000, kPackStream = std::uint64_t{1} << 40;

using Packs = std::vector<std::vector<std::uint32_t>>;

void check(const PreparedSet& set, const BatchOptions& options) {
  if (options.batch_size < 1 || options.accumulation < 1) {
    throw UsageError("per_device_train_batch_size and gradient_accumulation_steps must be at least 1");
  }
  if (options.packing && options.pack_length < 1) throw UsageError("packing needs a max_length");
  if (set.empty()) throw DataError("the prepared set has no row");
}

// Consecutive rows share a pack as long as they fit.
Packs pack_in_order(const PreparedSet& set, const std::vector<std::uint32_t>& rows, std::int64_t length) {
  Packs packs;
  std::int64_t room = 0;
  for (const auto row : rows) {
    if (packs.empty() || set.length(row) > room) {
      packs.emplace_back();
      room = length;
    }
    packs.back().push_back(row);
    room -= set.length(row);
  }
  return packs;
}

// Best fit decreasing: the longest rows first, each into the fullest pack that still takes it. Equal lengths keep the
// shuffled order, so packs differ from epoch to epoch while their number does not.
Packs pack_best_fit(const PreparedSet& set, std::vector<std::uint32_t> rows, std::int64_t length) {
  std::stable_sort(rows.begin(), rows.end(), [&](auto a, auto b) { return set.length(a) > set.length(b); });
  Packs packs;
  std::set<std::pair<std::int64_t, std::size_t>> rooms;  // what is left in a pack, the pack
  for (const auto row : rows) {
    const auto fit = rooms.lower_bound({set.length(row), 0});
    std::size_t pack = packs.size();
    std::int64_t room = length;
    if (fit == rooms.end()) {
      packs.emplace_back();
    } else {
      room = fit->first;
      pack = fit->second;
      rooms.erase(fit);
    }
    packs[pack].push_back(row);
    if (room > set.length(row)) rooms.emplace(room - set.length(row), pack);
  }
  return packs;
}

void append_row(const PreparedSet& set, std::uint32_t row, PackedBatch& batch) {
  const auto ids = set.ids(row);
  const auto start = static_cast<std::int32_t>(batch.ids.size());
  batch.ids.insert(batch.ids.end(), ids.begin(), ids.end());
  for (std::int32_t token = 0; token < static_cast<std::int32_t>(ids.size()); ++token) {
    batch.positions.push_back(token);
    if (token == 0 || !set.labelled(row, token)) continue;
    batch.targets.push_back(start + token - 1);
    batch.target_ids.push_back(ids[static_cast<std::size_t>(token)]);
  }
  batch.bounds.push_back(static_cast<std::int32_t>(batch.ids.size()));
}

}  // namespace

std::int64_t PackedBatch::max_length() const {
  std::int32_t longest = 0;
  for (std::size_t s = 0; s + 1 < bounds.size(); ++s) longest = std::max(longest, bounds[s + 1] - bounds[s]);
  return longest;
}

PackedBatch pack_rows(const PreparedSet& set, std::span<const std::uint32_t> rows, std::int64_t first) {
  std::int64_t tokens = 0;
  for (const auto row : rows) tokens += set.length(row);
  if (tokens > std::numeric_limits<std::int32_t>::max()) {
    throw UsageError(fmt::format("a micro-batch of {} tokens is too large: lower per_device_train_batch_size", tokens));
  }
  PackedBatch batch;
  batch.ids.reserve(static_cast<std::size_t>(tokens));
  batch.positions.reserve(static_cast<std::size_t>(tokens));
  batch.bounds.push_back(0);
  for (const auto row : rows) {
    batch.rows.push_back(static_cast<std::int32_t>(first + batch.sequences()));
    batch.set_rows.push_back(row);
    append_row(set, row, batch);
  }
  return batch;
}

std::int64_t StepRows::rows() const {
  std::int64_t count = 0;
  for (const auto& rows : micro_batches) count += static_cast<std::int64_t>(rows.size());
  return count;
}

PackedBatch StepRows::batch(const PreparedSet& set, std::size_t m) const {
  std::int64_t first = 0;
  for (std::size_t before = 0; before < m; ++before) first += static_cast<std::int64_t>(micro_batches[before].size());
  return pack_rows(set, micro_batches.at(m), first);
}

Epoch::Epoch(const PreparedSet& set, const BatchOptions& options, std::int64_t epoch) : set_(&set), options_(options) {
  check(set, options);
  rows_.resize(set.size());
  std::iota(rows_.begin(), rows_.end(), 0U);
  const auto stream = static_cast<std::uint64_t>(epoch);
  if (options.shuffle) {
    auto generator = seeded_generator(options.seed, kOrderStream + stream);
    shuffle_in_place(rows_, generator);
  }
  if (!options.packing) {
    group_bounds_.resize(rows_.size() + 1);
    std::iota(group_bounds_.begin(), group_bounds_.end(), 0U);
    return;
  }
  Packs packs =
      options.shuffle ? pack_best_fit(set, rows_, options.pack_length) : pack_in_order(set, rows_, options.pack_length);
  if (options.shuffle) {
    auto generator = seeded_generator(options.seed, kPackStream + stream);
    shuffle_in_place(packs, generator);
  }
  rows_.clear();
  group_bounds_ = {0};
  for (const auto& pack : packs) {
    rows_.insert(rows_.end(), pack.begin(), pack.end());
    group_bounds_.push_back(rows_.size());
  }
}

std::int64_t Epoch::steps() const {
  const std::int64_t per_step = options_.batch_size * options_.accumulation;
  return (groups() + per_step - 1) / per_step;
}

StepRows Epoch::step(std::int64_t step) const {
  StepRows result;
  const std::int64_t per_step = options_.batch_size * options_.accumulation;
  const std::int64_t end = std::min(groups(), (step + 1) * per_step);
  for (std::int64_t group = step * per_step; group < end; group += options_.batch_size) {
    const auto last = static_cast<std::size_t>(std::min(end, group + options_.batch_size));
    const auto at = [&](std::size_t g) { return rows_.begin() + static_cast<std::ptrdiff_t>(group_bounds_[g]); };
    result.micro_batches.emplace_back(at(static_cast<std::size_t>(group)), at(last));
    for (const auto row : result.micro_batches.back()) {
      result.targets += set_->targets(row);
      result.tokens += set_->length(row);
    }
  }
  return result;
}

Batcher::Batcher(const PreparedSet& set, const BatchOptions& options, BatchPosition position)
    : set_(&set), options_(options), position_(position), epoch_(set, options, position.epoch) {
  if (position.epoch < 0 || position.step < 0 || position.step >= epoch_.steps()) {
    throw UsageError(fmt::format("the data have {} steps an epoch: step {} of epoch {} is none of them", epoch_.steps(),
                                 position.step, position.epoch));
  }
}

StepRows Batcher::next() {
  StepRows rows = epoch_.step(position_.step);
  if (++position_.step == epoch_.steps()) {
    position_ = {position_.epoch + 1, 0};
    epoch_ = Epoch(*set_, options_, position_.epoch);
  }
  return rows;
}

Epoch evaluation_batches(const PreparedSet& set, std::int64_t batch_size) {
  return Epoch(set, {.batch_size = batch_size, .shuffle = false}, 0);
}

}  // namespace qlora
