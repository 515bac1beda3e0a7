#include "qlora/generate/generator.h"

#include <algorithm>
#include <iterator>
#include <numeric>

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/generate/row_batch.h"

namespace qlora {
namespace {

constexpr std::int64_t kWorthSharing = 16;  // tokens

// A row that goes on with these tokens; its last one's next is wanted.
BatchRow row_of(std::span<const std::int32_t> ids, std::int64_t start, std::int64_t slot) {
  return {ids, start, slot, {{static_cast<std::int64_t>(ids.size()) - 1, -1}}};
}

std::unique_ptr<ProgramCache> programs_of(const Decoder& decoder) {
  const std::vector<Block>& blocks = decoder.blocks(HeadKind::kLogits);
  return std::make_unique<ProgramCache>(blocks, Pass::kForward, uniform_keep(blocks, Keep::kAll), decoder.device());
}

at::Tensor indices(const std::vector<std::int64_t>& values, at::Device device) {
  at::Tensor host = at::empty({static_cast<std::int64_t>(values.size())},
                              at::TensorOptions().dtype(at::kLong).pinned_memory(device.is_cuda()));
  std::copy(values.begin(), values.end(), host.mutable_data_ptr<std::int64_t>());
  return host.to(device, /*non_blocking=*/true);
}

}  // namespace

Generator::Generator(Decoder& decoder, Settings settings) : decoder_(decoder), settings_(std::move(settings)) {}

// A convolution's state is that of a slot's last token alone; and where a row's length decides how its tokens are
// turned, rows have no common beginning.
bool Generator::may_share() const {
  return settings_.shares_prefixes && !cache_->has_states() && !decoder_.config().rope_scaling.varies_with_length();
}

std::int64_t Generator::common(std::size_t prompt, std::size_t other) const {
  const std::vector<std::int32_t>& a = (*prompts_)[prompt];
  const std::vector<std::int32_t>& b = (*prompts_)[other];
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

// Prompts that begin alike wait together. Where few do, the longest first: long rows do not begin last.
std::vector<std::size_t> Generator::order_of(const std::vector<std::vector<std::int32_t>>& prompts) const {
  std::vector<std::size_t> order(prompts.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  if (may_share()) {
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return prompts[a] < prompts[b]; });
    std::int64_t all = 0;
    std::int64_t shared = 0;
    for (std::size_t i = 0; i < order.size(); ++i) {
      const std::int64_t begins_alike = i > 0 ? common(order[i], order[i - 1]) : 0;
      all += static_cast<std::int64_t>(prompts[order[i]].size());
      shared += begins_alike >= kWorthSharing ? begins_alike : 0;
    }
    if (10 * shared >= all) return order;
    std::iota(order.begin(), order.end(), std::size_t{0});
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return prompts[a].size() > prompts[b].size(); });
  return order;
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
  const std::int64_t slots = answer_slots(decoder_, settings_.options, std::ssize(prompts), capacity);
  const at::Device device = decoder_.device();
  prompts_ = &prompts;
  cache_ = std::make_unique<KvCache>(decoder_.cache_layers(), slots, capacity, device, decoder_.dtype());
  sampler_ =
      std::make_unique<DeviceSampler>(settings_.options, settings_.seed, slots, decoder_.config().vocabulary, device);
  prefill_programs_ = programs_of(decoder_);
  decode_programs_ = programs_of(decoder_);
  prefill_runner_ = std::make_unique<ProgramRunner>(*prefill_programs_, decoder_.store(), /*graphs=*/false);
  decode_runner_ = std::make_unique<ProgramRunner>(*decode_programs_, decoder_.store(), settings_.graphs);
  counts_ = {};
  answers_.assign(prompts.size(), {});
  done_.assign(prompts.size(), false);
  rows_.clear();
  drawn_.clear();
  prompt_in_slot_.assign(static_cast<std::size_t>(slots), -1);
  free_slots_.resize(static_cast<std::size_t>(slots));
  std::iota(free_slots_.rbegin(), free_slots_.rend(), std::int64_t{0});
  next_ = at::empty({0}, at::TensorOptions().device(device).dtype(at::kLong));
  const std::vector<std::size_t> order = order_of(prompts);
  waiting_.assign(order.begin(), order.end());

  // A GPU works while the host looks at the tokens of the pass before: a row may go one token too far, which is
  // dropped.
  const std::size_t in_flight = device.is_cuda() ? 1 : 0;
  while (!waiting_.empty() || !rows_.empty() || !drawn_.empty()) {
    if (admits()) {
      prefill(take_waiting());
    } else if (!rows_.empty()) {
      std::vector<Row> outgrown = take_outgrown();
      decode();
      prefill(std::move(outgrown));
    }
    receive(rows_.empty() ? 0 : in_flight);
    drop_finished();
  }
  counts_.graphs = static_cast<std::int64_t>(decode_runner_->graph_count());
  return std::move(answers_);
}

// On a GPU a pass over one prompt takes as long as one over several: some slots wait for each other.
bool Generator::admits() const {
  const auto free = static_cast<std::int64_t>(std::min(free_slots_.size(), waiting_.size()));
  const std::int64_t enough = decoder_.device().is_cuda() ? cache_->slots() / 8 : 1;
  return free > 0 &&
         (rows_.empty() || free >= std::min<std::int64_t>(enough, static_cast<std::int64_t>(waiting_.size())));
}

// The slot that holds most of what a prompt begins with. Its last token is always computed: the next one is wanted.
Generator::Prefix Generator::longest_prefix(std::size_t prompt) const {
  Prefix best;
  if (!may_share()) return best;
  const auto most = static_cast<std::int64_t>((*prompts_)[prompt].size()) - 1;
  for (std::size_t slot = 0; slot < prompt_in_slot_.size(); ++slot) {
    if (prompt_in_slot_[slot] < 0) continue;
    const std::int64_t alike = common(prompt, static_cast<std::size_t>(prompt_in_slot_[slot]));
    const std::int64_t tokens = std::min({most, alike, cache_->length(static_cast<std::int64_t>(slot))});
    if (tokens > best.tokens) best = {static_cast<std::int64_t>(slot), tokens};
  }
  return best.tokens >= kWorthSharing ? best : Prefix{};
}

// Whether a row that is about to be computed will hold more of it.
bool Generator::worth_waiting(std::size_t prompt, std::int64_t there, const std::vector<Row>& starting) const {
  const auto most = static_cast<std::int64_t>((*prompts_)[prompt].size()) - 1;
  return may_share() && std::any_of(starting.begin(), starting.end(), [&](const Row& row) {
           return std::min(most, common(prompt, row.prompt)) - there >= kWorthSharing;
         });
}

// Waiting prompts for free slots, as many as one pass takes, each behind what its slot holds of it already.
std::vector<Generator::Row> Generator::take_waiting() {
  std::vector<Row> starting;
  std::int64_t tokens = 0;
  const auto looked_at = static_cast<std::size_t>(4 * cache_->slots());
  for (std::size_t i = 0; i < std::min(waiting_.size(), looked_at) && !free_slots_.empty();) {
    const std::size_t prompt = waiting_[i];
    const Prefix prefix = longest_prefix(prompt);
    if (worth_waiting(prompt, prefix.tokens, starting)) {
      ++i;
      continue;
    }
    tokens += static_cast<std::int64_t>((*prompts_)[prompt].size()) - prefix.tokens;
    if (!starting.empty() && tokens > kPassTokens) break;
    waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
    // A free slot that holds the prefix needs no copy.
    auto place = std::find(free_slots_.begin(), free_slots_.end(), prefix.slot);
    if (place == free_slots_.end()) place = free_slots_.end() - 1;
    const std::int64_t slot = *place;
    free_slots_.erase(place);
    if (prefix.slot >= 0 && prefix.slot != slot) {
      cache_->copy(prefix.slot, slot, prefix.tokens);
    } else {
      cache_->clear(slot);
      cache_->advance(slot, prefix.tokens);
    }
    prompt_in_slot_[static_cast<std::size_t>(slot)] = static_cast<std::int64_t>(prompt);
    sampler_->begin(slot, (*prompts_)[prompt]);
    starting.push_back({prompt, slot});
  }
  return starting;
}

// The next token of each row of a batch, in its order.
at::Tensor Generator::run(ProgramRunner& runner, const Batch& batch, std::vector<Row>& rows) {
  const at::Tensor logits = runner.run(batch).narrow(0, 0, static_cast<std::int64_t>(rows.size()));
  std::vector<DeviceSampler::Draw> draws;
  for (std::size_t r = 0; r < rows.size(); ++r) {
    cache_->advance(rows[r].slot, batch.row_bounds[r + 1] - batch.row_bounds[r]);
    draws.push_back({rows[r].slot, rows[r].prompt, static_cast<std::uint64_t>(rows[r].drawn++)});
  }
  at::Tensor tokens = sampler_->next(logits, draws);
  send(rows, tokens);
  return tokens;
}

// Computes what the rows' slots do not hold of prompt and answer.
void Generator::prefill(std::vector<Row> starting) {
  if (starting.empty()) return;
  std::deque<std::vector<std::int32_t>> whole;
  std::vector<BatchRow> parts;
  for (const Row& row : starting) {
    const std::int64_t held = cache_->length(row.slot);
    const std::vector<std::int32_t>& answer = answers_[row.prompt].ids;
    whole.push_back((*prompts_)[row.prompt]);
    whole.back().insert(whole.back().end(), answer.begin(), answer.end());
    const auto ids = std::span<const std::int32_t>(whole.back()).subspan(static_cast<std::size_t>(held));
    parts.push_back(row_of(ids, held, row.slot));
    counts_.prompt_tokens += static_cast<std::int64_t>(ids.size());
    counts_.shared_tokens += held;
  }
  ++counts_.prefills;
  const at::Tensor tokens = run(*prefill_runner_, make_row_batch(parts, cache_.get(), decoder_.device()), starting);
  next_ = at::cat({next_, tokens});
  rows_.insert(rows_.end(), starting.begin(), starting.end());
}

// Longrope turns all tokens of a row that is longer than the original length otherwise, those before that length, too:
// such a row begins anew. Takes them out of rows_.
std::vector<Generator::Row> Generator::take_outgrown() {
  const RopeScaling& scaling = decoder_.config().rope_scaling;
  const auto longest = static_cast<std::int64_t>(scaling.original_max_positions);
  const auto outgrows = [&](const Row& row) {
    return scaling.kind == RopeScaling::Kind::kLongrope && cache_->length(row.slot) == longest;
  };
  if (std::none_of(rows_.begin(), rows_.end(), outgrows)) return {};
  receive(0);
  drop_finished();
  std::vector<Row> outgrown;
  std::copy_if(rows_.begin(), rows_.end(), std::back_inserter(outgrown), outgrows);
  keep_rows([&](const Row& row) { return !outgrows(row); });
  for (const Row& row : outgrown) cache_->clear(row.slot);
  return outgrown;
}

// One more token of every row.
void Generator::decode() {
  if (rows_.empty()) return;
  constexpr std::int32_t kOnDevice = 0;  // the token is next_'s
  std::vector<BatchRow> parts;
  for (const Row& row : rows_) parts.push_back(row_of({&kOnDevice, 1}, cache_->length(row.slot), row.slot));
  const Batch batch = make_row_batch(parts, cache_.get(), decoder_.device());
  batch.ids.narrow(0, 0, next_.size(0)).copy_(next_);
  ++counts_.steps;
  next_ = run(*decode_runner_, batch, rows_);
}

void Generator::send(const std::vector<Row>& rows, const at::Tensor& tokens) {
  Drawn drawn;
  for (const Row& row : rows) drawn.prompts.push_back(row.prompt);
  if (tokens.is_cuda()) {
    drawn.tokens = at::empty(tokens.sizes(), at::TensorOptions().dtype(at::kLong).pinned_memory(true));
    drawn.tokens.copy_(tokens, /*non_blocking=*/true);
    drawn.there = std::make_unique<c10::Event>(tokens.device().type());
    drawn.there->record(c10::impl::VirtualGuardImpl(tokens.device().type()).getStream(tokens.device()));
  } else {
    drawn.tokens = tokens;
  }
  drawn_.push_back(std::move(drawn));
}

// Looks at what was drawn, but for the last so many passes.
void Generator::receive(std::size_t in_flight) {
  for (; drawn_.size() > in_flight; drawn_.pop_front()) {
    if (drawn_.front().there != nullptr) drawn_.front().there->synchronize();
    accept(drawn_.front());
  }
}

void Generator::accept(const Drawn& drawn) {
  const auto* token = drawn.tokens.const_data_ptr<std::int64_t>();
  for (const std::size_t prompt : drawn.prompts) {
    const auto id = static_cast<std::int32_t>(*token++);
    if (done_[prompt]) continue;
    Answer& answer = answers_[prompt];
    const bool stop = std::find(settings_.stop_ids.begin(), settings_.stop_ids.end(), id) != settings_.stop_ids.end();
    if (!stop) {
      answer.ids.push_back(id);
      if (settings_.on_token) settings_.on_token(prompt, id);
    }
    answer.ended = stop || (settings_.stops && settings_.stops(answer.ids));
    done_[prompt] = answer.ended || static_cast<std::int64_t>(answer.ids.size()) >= settings_.options.max_new_tokens;
    if (done_[prompt] && settings_.on_answer) settings_.on_answer(prompt, answer);
  }
}

void Generator::keep_rows(const std::function<bool(const Row&)>& stays) {
  std::vector<std::int64_t> kept;
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    if (stays(rows_[r])) kept.push_back(static_cast<std::int64_t>(r));
  }
  if (kept.size() == rows_.size()) return;
  std::erase_if(rows_, [&](const Row& row) { return !stays(row); });
  next_ = next_.index_select(0, indices(kept, decoder_.device()));
}

// Slots of rows that need no further step are free; what they hold may serve as another's beginning.
void Generator::drop_finished() {
  const auto finished = [&](const Row& row) {
    return done_[row.prompt] || row.drawn >= settings_.options.max_new_tokens;
  };
  for (const Row& row : rows_) {
    if (finished(row)) free_slots_.push_back(row.slot);
  }
  keep_rows([&](const Row& row) { return !finished(row); });
}

}  // namespace qlora
