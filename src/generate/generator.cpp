#include "qlora/generate/generator.h"

#include <algorithm>
#include <numeric>

#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/generate/row_batch.h"

namespace qlora {
namespace {

constexpr std::int64_t kMostSlots = 64;

// A row that goes on with these tokens; its last one's next is wanted.
BatchRow row_of(std::span<const std::int32_t> ids, std::int64_t start, std::int64_t slot) {
  return {ids, start, slot, {{static_cast<std::int64_t>(ids.size()) - 1, -1}}};
}

}  // namespace

Generator::Generator(Decoder& decoder, Settings settings)
    : decoder_(decoder),
      settings_(std::move(settings)),
      sampler_(settings_.options, settings_.seed),
      programs_(decoder.blocks(HeadKind::kLogits), Pass::kForward,
                uniform_keep(decoder.blocks(HeadKind::kLogits), Keep::kAll), decoder.device()) {}

std::int64_t Generator::slots_for(const std::vector<std::vector<std::int32_t>>& prompts, std::int64_t capacity) const {
  const auto count = static_cast<std::int64_t>(prompts.size());
  if (settings_.options.batch_size) return std::min(count, *settings_.options.batch_size);
  return cache_slots_for(decoder_, capacity, std::min(count, kMostSlots));
}

std::vector<Answer> Generator::generate(const std::vector<std::vector<std::int32_t>>& prompts) {
  if (prompts.empty()) return {};
  std::size_t longest = 0;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    if (prompts[i].empty()) throw DataError(fmt::format("prompt {}: has no token to continue from", i));
    longest = std::max(longest, prompts[i].size());
  }
  const std::int64_t capacity = static_cast<std::int64_t>(longest) + settings_.options.max_new_tokens;
  const std::int64_t most = decoder_.config().longest_row();
  if (capacity > most) {
    throw DataError(fmt::format("a prompt of {} tokens and max_new_tokens {} exceed the model's {} positions", longest,
                                settings_.options.max_new_tokens, most));
  }
  const std::int64_t slots = slots_for(prompts, capacity);
  cache_ = std::make_unique<KvCache>(decoder_.cache_layers(), slots, capacity, decoder_.device(), decoder_.dtype());
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
      if (!starting.empty() && tokens > kPassTokens) break;
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
  std::vector<BatchRow> rows;
  for (const std::size_t prompt : starting) {
    rows.push_back(row_of((*prompts_)[prompt], 0, first_slot + static_cast<std::int64_t>(rows.size())));
    cache_->clear(rows.back().slot);
    rows_.push_back({prompt});
  }
  Batch batch = make_row_batch(rows, cache_.get(), decoder_.device());
  accept(run(batch).output(), static_cast<std::size_t>(first_slot), rows_.size());
}

// One more token of every row, but for those that outgrow what their cache was made for: they begin anew.
void Generator::decode() {
  for (std::size_t begin = 0; begin < rows_.size();) {
    std::size_t end = begin;
    while (end < rows_.size() && !outgrows_cache(end)) ++end;
    if (end == begin) {
      restart(begin++);
    } else {
      extend(begin, end);
      begin = end;
    }
  }
}

// Longrope turns all tokens of a row that is longer than the original length otherwise, those before that length, too.
bool Generator::outgrows_cache(std::size_t row) const {
  const RopeScaling& scaling = decoder_.config().rope_scaling;
  return scaling.kind == RopeScaling::Kind::kLongrope &&
         cache_->length(static_cast<std::int64_t>(row)) == static_cast<std::int64_t>(scaling.original_max_positions);
}

void Generator::restart(std::size_t row) {
  const std::size_t prompt = rows_[row].prompt;
  std::vector<std::int32_t> ids = (*prompts_)[prompt];
  ids.insert(ids.end(), answers_[prompt].ids.begin(), answers_[prompt].ids.end());
  const auto slot = static_cast<std::int64_t>(row);
  cache_->clear(slot);
  Batch batch = make_row_batch({row_of(ids, 0, slot)}, cache_.get(), decoder_.device());
  accept(run(batch).output(), row, row + 1);
}

void Generator::extend(std::size_t begin, std::size_t end) {
  std::vector<BatchRow> rows;
  for (std::size_t row = begin; row < end; ++row) {
    const auto slot = static_cast<std::int64_t>(row);
    rows.push_back(row_of({&rows_[row].next, 1}, cache_->length(slot), slot));
  }
  Batch batch = make_row_batch(rows, cache_.get(), decoder_.device());
  accept(run(batch).output(), begin, end);
}

// Takes the next token of rows [begin, end) from their logits.
void Generator::accept(const at::Tensor& logits, std::size_t begin, std::size_t end) {
  at::Tensor host = logits.to(at::kCPU, at::kFloat);
  const auto vocabulary = static_cast<std::size_t>(host.size(1));
  for (std::size_t r = begin; r < end; ++r) {
    Row& row = rows_[r];
    Answer& answer = answers_[row.prompt];
    std::vector<std::int32_t> seen;
    if (settings_.options.repetition_penalty != 1.0) {
      seen = (*prompts_)[row.prompt];
      seen.insert(seen.end(), answer.ids.begin(), answer.ids.end());
    }
    float* data = host.mutable_data_ptr<float>() + (r - begin) * vocabulary;
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
