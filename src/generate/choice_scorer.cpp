#include "qlora/generate/choice_scorer.h"

#include <algorithm>
#include <iterator>

#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/generate/row_batch.h"

namespace qlora {
namespace {

constexpr std::size_t kWorthSharing = 16;  // tokens

}  // namespace

// What the model reads for one choice, or for several: choices of one token share the row of their context.
struct ChoiceScorer::Row {
  struct Place {
    std::size_t question, choice;
  };
  std::vector<std::int32_t> ids;
  std::vector<PredictedToken> predicted;
  std::vector<Place> places;  // whose log-likelihood each prediction counts to
  bool cut = false;           // its beginning is missing
};

ChoiceScorer::ChoiceScorer(Decoder& decoder, std::optional<std::int64_t> batch_size)
    : decoder_(decoder),
      batch_size_(batch_size),
      programs_(decoder.blocks(HeadKind::kNll), Pass::kForward,
                uniform_keep(decoder.blocks(HeadKind::kNll), Keep::kAll), decoder.device()) {}

std::vector<ChoiceScorer::Row> ChoiceScorer::rows_of(const std::vector<ChoiceQuestion>& questions) const {
  const auto most = static_cast<std::size_t>(decoder_.config().longest_row());
  std::vector<Row> rows;
  for (std::size_t q = 0; q < questions.size(); ++q) {
    const std::size_t first = rows.size();
    for (std::size_t c = 0; c < questions[q].choices.size(); ++c) {
      const std::vector<std::int32_t>& choice = questions[q].choices[c];
      Row row;
      row.ids = questions[q].context;
      if (row.ids.empty() || choice.empty() || choice.size() > most)
        throw DataError(fmt::format("question {}: an empty text, or a choice of more than {} tokens", q, most));
      row.ids.insert(row.ids.end(), choice.begin(), choice.end() - 1);
      row.cut = row.ids.size() > most;
      if (row.cut) row.ids.erase(row.ids.begin(), row.ids.end() - static_cast<std::ptrdiff_t>(most));
      auto target = std::find_if(rows.begin() + static_cast<std::ptrdiff_t>(first), rows.end(),
                                 [&](const Row& other) { return other.ids == row.ids; });
      if (target == rows.end()) target = rows.insert(rows.end(), std::move(row));
      for (std::size_t i = 0; i < choice.size(); ++i) {
        target->predicted.push_back({static_cast<std::int64_t>(target->ids.size() - choice.size() + i), choice[i]});
        target->places.push_back({q, c});
      }
    }
  }
  return rows;
}

// The end of a batch that begins at `begin`.
std::size_t ChoiceScorer::batch_end(const std::vector<Row>& rows, std::size_t begin, std::size_t most,
                                    std::size_t shared) const {
  std::size_t end = begin;
  std::size_t tokens = 0;
  for (; end < rows.size() && end - begin < most; ++end) {
    tokens += rows[end].ids.size() - shared;
    if (end > begin && tokens > static_cast<std::size_t>(kPassTokens)) break;
  }
  return end;
}

// Rows [begin, end) behind the first `shared` tokens, which slots 1, 2, ... of the cache hold.
void ChoiceScorer::run_batch(const std::vector<Row>& rows, std::size_t begin, std::size_t end, KvCache* cache,
                             std::size_t shared) {
  std::vector<BatchRow> parts;
  for (std::size_t r = begin; r < end; ++r) {
    BatchRow part{std::span(rows[r].ids).subspan(shared), static_cast<std::int64_t>(shared),
                  static_cast<std::int64_t>(r - begin) + 1, rows[r].predicted};
    for (PredictedToken& token : part.predicted) token.place -= static_cast<std::int64_t>(shared);
    parts.push_back(std::move(part));
  }
  Batch batch = make_row_batch(parts, cache, decoder_.device());
  Program& program = programs_.program_for(batch);
  program.run(batch);
  const at::Tensor losses = program.output().to(at::kCPU, at::kDouble);
  const auto* loss = losses.const_data_ptr<double>();
  for (std::size_t r = begin; r < end; ++r) {
    for (const Row::Place& place : rows[r].places) scores_[place.question][place.choice] -= *loss++;
    const bool last = r + 1 == rows.size() || rows[r + 1].places[0].question != rows[r].places[0].question;
    if (last) ++done_;
  }
  if (on_done_) on_done_(done_);
}

void ChoiceScorer::run_plain(const std::vector<Row>& rows) {
  const auto most = static_cast<std::size_t>(batch_size_.value_or(kMostQuestions));
  for (std::size_t begin = 0; begin < rows.size();) {
    const std::size_t end = batch_end(rows, begin, most, 0);
    run_batch(rows, begin, end, nullptr, 0);
    begin = end;
  }
}

void ChoiceScorer::run_shared(const std::vector<Row>& rows, std::size_t shared) {
  std::size_t longest = 0;
  for (const Row& row : rows) longest = std::max(longest, row.ids.size());
  const auto capacity = static_cast<std::int64_t>(longest);
  const auto wanted =
      std::min<std::int64_t>(static_cast<std::int64_t>(rows.size()), batch_size_.value_or(kMostQuestions));
  const std::int64_t slots = std::max<std::int64_t>(2, cache_slots_for(decoder_, capacity, wanted + 1));
  KvCache cache(decoder_.cache_layers(), slots, capacity, decoder_.device(), decoder_.dtype());

  const std::span<const std::int32_t> beginning = std::span(rows[0].ids).first(shared);
  Batch batch = make_row_batch({{beginning, 0, 0, {{0, 0}}}}, &cache, decoder_.device());
  programs_.program_for(batch).run(batch);
  cache.advance(0, static_cast<std::int64_t>(shared));

  for (std::size_t begin = 0; begin < rows.size();) {
    const std::size_t end = batch_end(rows, begin, static_cast<std::size_t>(slots - 1), shared);
    for (std::size_t r = begin; r < end; ++r)
      cache.copy(0, static_cast<std::int64_t>(r - begin) + 1, static_cast<std::int64_t>(shared));
    run_batch(rows, begin, end, &cache, shared);
    begin = end;
  }
}

std::vector<std::vector<double>> ChoiceScorer::score(const std::vector<ChoiceQuestion>& questions,
                                                     const std::function<void(std::int64_t)>& on_done) {
  scores_.clear();
  for (const ChoiceQuestion& question : questions) scores_.emplace_back(question.choices.size(), 0.0);
  on_done_ = on_done;
  done_ = 0;
  std::vector<Row> whole = rows_of(questions);
  // Where a row's length decides how its tokens are turned, rows have no common beginning.
  const bool may_share = !decoder_.config().rope_scaling.varies_with_length();
  std::vector<Row> apart;
  const auto stays = [&](const Row& row) { return may_share && !row.cut; };
  const auto middle = std::stable_partition(whole.begin(), whole.end(), stays);
  apart.assign(std::make_move_iterator(middle), std::make_move_iterator(whole.end()));
  whole.erase(middle, whole.end());

  std::size_t shared = whole.size() > 1 ? whole[0].ids.size() : 0;
  for (const Row& row : whole) {
    const auto first = std::mismatch(row.ids.begin(), row.ids.end(), whole[0].ids.begin(), whole[0].ids.end()).first;
    shared = std::min(
        {shared, static_cast<std::size_t>(first - row.ids.begin()), static_cast<std::size_t>(row.predicted[0].place)});
  }
  if (shared < kWorthSharing) {
    run_plain(whole);
  } else {
    run_shared(whole, shared);
  }
  run_plain(apart);
  return std::move(scores_);
}

}  // namespace qlora
