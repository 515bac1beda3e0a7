#include "qlora/generate/generator.h"

#include <algorithm>
#include <numeric>

#include <ATen/ops/tensor.h>
#include <fmt/format.h>

#include "qlora/core/error.h"

namespace qlora {
namespace {

constexpr std::int64_t kMostSlots = 64;
constexpr std::int64_t kCacheBytes = std::int64_t{1} << 30;
constexpr std::int64_t kPrefillTokens = 4096;

// Rows of tokens that begin at `starts` in their sequences; the last token of each row is labelled.
Batch make_batch(const std::vector<std::span<const std::int32_t>>& rows, const std::vector<std::int64_t>& starts,
                 const std::vector<std::int64_t>& slots, KvCache& cache, at::Device device) {
  Batch batch;
  std::vector<std::int64_t> ids;
  std::vector<std::int64_t> positions;
  std::vector<std::int64_t> last;
  batch.row_bounds = {0};
  for (std::size_t r = 0; r < rows.size(); ++r) {
    for (std::size_t i = 0; i < rows[r].size(); ++i) {
      ids.push_back(rows[r][i]);
      positions.push_back(starts[r] + static_cast<std::int64_t>(i));
    }
    last.push_back(static_cast<std::int64_t>(ids.size()) - 1);
    batch.row_bounds.push_back(static_cast<std::int64_t>(ids.size()));
    batch.max_length = std::max(batch.max_length, starts[r] + static_cast<std::int64_t>(rows[r].size()));
  }
  const auto bucket = static_cast<std::size_t>(token_bucket(static_cast<std::int64_t>(ids.size())));
  ids.resize(bucket, 0);
  positions.resize(bucket, 0);
  batch.ids = at::tensor(ids, at::kLong).to(device);
  batch.positions = at::tensor(positions, at::kLong).to(device);
  batch.bounds = at::tensor(batch.row_bounds, at::kLong).to(device, at::kInt);
  batch.labelled = at::tensor(last, at::kLong).to(device);
  batch.row_keys.assign(rows.size(), 0);
  batch.cache = &cache;
  batch.cache_slots = slots;
  return batch;
}

}  // namespace

Generator::Generator(Decoder& decoder, Settings settings)
    : decoder_(decoder),
      settings_(std::move(settings)),
      sampler_(settings_.options, settings_.seed),
      programs_(decoder.blocks(HeadKind::kLogits), Pass::kForward,
                uniform_keep(decoder.blocks(HeadKind::kLogits), Keep::kAll), decoder.device()) {}

std::int64_t Generator::slots_for(const std::vector<std::vector<std::int32_t>>& prompts, std::int64_t capacity) const {
  const ModelConfig& c = decoder_.config();
  const auto count = static_cast<std::int64_t>(prompts.size());
  if (settings_.options.batch_size) return std::min(count, *settings_.options.batch_size);
  const std::int64_t bytes =
      2 * c.layers * c.kv_heads * c.head_dim * capacity * static_cast<std::int64_t>(c10::elementSize(decoder_.dtype()));
  return std::clamp<std::int64_t>(kCacheBytes / bytes, 1, std::min(count, kMostSlots));
}

std::vector<Answer> Generator::generate(const std::vector<std::vector<std::int32_t>>& prompts) {
  if (prompts.empty()) return {};
  std::size_t longest = 0;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    if (prompts[i].empty()) throw DataError(fmt::format("prompt {}: has no token to continue from", i));
    longest = std::max(longest, prompts[i].size());
  }
  const std::int64_t capacity = static_cast<std::int64_t>(longest) + settings_.options.max_new_tokens;
  const ModelConfig& c = decoder_.config();
  if (capacity > c.max_positions) {
    throw DataError(fmt::format("a prompt of {} tokens and max_new_tokens {} exceed the model's {} positions", longest,
                                settings_.options.max_new_tokens, c.max_positions));
  }
  const std::int64_t slots = slots_for(prompts, capacity);
  cache_ =
      std::make_unique<KvCache>(c.layers, slots, c.kv_heads, c.head_dim, capacity, decoder_.device(), decoder_.dtype());
  prompts_ = &prompts;
  answers_.assign(prompts.size(), {});
  done_.assign(prompts.size(), false);
  rows_.clear();

  // Prompts of like length wait together, the longest first, so that the cache's live part shrinks as work ends.
  std::vector<std::size_t> waiting(prompts.size());
  std::iota(waiting.begin(), waiting.end(), std::size_t{0});
  std::stable_sort(waiting.begin(), waiting.end(),
                   [&](std::size_t a, std::size_t b) { return prompts[a].size() < prompts[b].size(); });
  while (!waiting.empty() || !rows_.empty()) {
    std::vector<std::size_t> starting;
    std::int64_t tokens = 0;
    while (!waiting.empty() && static_cast<std::int64_t>(rows_.size() + starting.size()) < slots) {
      tokens += static_cast<std::int64_t>(prompts[waiting.back()].size());
      if (!starting.empty() && tokens > kPrefillTokens) break;
      starting.push_back(waiting.back());
      waiting.pop_back();
    }
    if (!starting.empty()) {
      prefill(starting, static_cast<std::int64_t>(rows_.size()));
    } else {
      decode();
    }
    drop_finished();
  }
  return std::move(answers_);
}

Program& Generator::run(Batch& batch) {
  Program& program = programs_.program_for(batch);
  program.run(batch);
  for (std::size_t s = 0; s < batch.cache_slots.size(); ++s) {
    cache_->advance(batch.cache_slots[s], batch.row_bounds[s + 1] - batch.row_bounds[s]);
  }
  return program;
}

void Generator::prefill(const std::vector<std::size_t>& starting, std::int64_t first_slot) {
  std::vector<std::span<const std::int32_t>> rows;
  std::vector<std::int64_t> slots;
  for (const std::size_t prompt : starting) {
    rows.emplace_back((*prompts_)[prompt]);
    slots.push_back(first_slot + static_cast<std::int64_t>(slots.size()));
    cache_->clear(slots.back());
    rows_.push_back({prompt});
  }
  Batch batch = make_batch(rows, std::vector<std::int64_t>(rows.size(), 0), slots, *cache_, decoder_.device());
  accept(run(batch).output(), static_cast<std::size_t>(first_slot));
}

void Generator::decode() {
  std::vector<std::span<const std::int32_t>> rows;
  std::vector<std::int64_t> starts;
  std::vector<std::int64_t> slots;
  for (const Row& row : rows_) {
    rows.emplace_back(&row.next, 1);
    slots.push_back(static_cast<std::int64_t>(slots.size()));
    starts.push_back(cache_->length(slots.back()));
  }
  Batch batch = make_batch(rows, starts, slots, *cache_, decoder_.device());
  accept(run(batch).output(), 0);
}

// Takes the next token of rows first_row.. from their logits.
void Generator::accept(const at::Tensor& logits, std::size_t first_row) {
  at::Tensor host = logits.to(at::kCPU, at::kFloat);
  const auto vocabulary = static_cast<std::size_t>(host.size(1));
  for (std::size_t r = first_row; r < rows_.size(); ++r) {
    Row& row = rows_[r];
    Answer& answer = answers_[row.prompt];
    std::vector<std::int32_t> seen;
    if (settings_.options.repetition_penalty != 1.0) {
      seen = (*prompts_)[row.prompt];
      seen.insert(seen.end(), answer.ids.begin(), answer.ids.end());
    }
    float* data = host.mutable_data_ptr<float>() + (r - first_row) * vocabulary;
    row.next = sampler_.next({data, vocabulary}, seen, row.prompt, answer.ids.size());
    const bool stop =
        std::find(settings_.stop_ids.begin(), settings_.stop_ids.end(), row.next) != settings_.stop_ids.end();
    if (!stop) {
      answer.ids.push_back(row.next);
      if (settings_.on_token) settings_.on_token(row.prompt, row.next);
    }
    answer.ended = stop || (settings_.stops && settings_.stops(answer.ids));
    done_[row.prompt] =
        answer.ended || static_cast<std::int64_t>(answer.ids.size()) >= settings_.options.max_new_tokens;
    if (done_[row.prompt] && settings_.on_answer) settings_.on_answer(row.prompt, answer);
  }
}

// Rows that go on move to the front slots.
void Generator::drop_finished() {
  std::vector<std::int64_t> live;
  std::vector<Row> kept;
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    if (done_[rows_[r].prompt]) continue;
    live.push_back(static_cast<std::int64_t>(r));
    kept.push_back(rows_[r]);
  }
  if (kept.size() == rows_.size()) return;
  for (std::size_t to = 0; to < live.size(); ++to) cache_->move(live[to], static_cast<std::int64_t>(to));
  rows_ = std::move(kept);
}

}  // namespace qlora
