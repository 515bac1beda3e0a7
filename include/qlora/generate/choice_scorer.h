// Log-likelihoods of given continuations, as multiple-choice tasks need them.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "qlora/models/decoder.h"
#include "qlora/nn/program_cache.h"

namespace qlora {

// A context and what may follow it.
struct ChoiceQuestion {
  std::vector<std::int32_t> context;
  std::vector<std::vector<std::int32_t>> choices;
};

class ChoiceScorer {
 public:
  // batch_size: questions of one pass at most; unset: what fits. The decoder must outlive the scorer.
  ChoiceScorer(Decoder& decoder, std::optional<std::int64_t> batch_size);

  // log p(choice | context), natural, the sum over the choice's tokens: one a choice, one list a question. What all
  // contexts begin with is computed once. A context that is too long for the model's positions loses its beginning.
  // `on_done` hears of the questions done; may be empty. Throws DataError for an empty context or choice.
  std::vector<std::vector<double>> score(const std::vector<ChoiceQuestion>& questions,
                                         const std::function<void(std::int64_t)>& on_done = {});

 private:
  struct Row;
  std::vector<Row> rows_of(const std::vector<ChoiceQuestion>& questions) const;
  void run_plain(const std::vector<Row>& rows);
  void run_shared(const std::vector<Row>& rows, std::size_t shared);
  void run_batch(const std::vector<Row>& rows, std::size_t begin, std::size_t end, KvCache* cache, std::size_t shared);
  std::size_t batch_end(const std::vector<Row>& rows, std::size_t begin, std::size_t most, std::size_t shared) const;

  Decoder& decoder_;
  std::optional<std::int64_t> batch_size_;
  ProgramCache programs_;
  std::vector<std::vector<double>> scores_;
  std::function<void(std::int64_t)> on_done_;
  std::int64_t done_ = 0;
};

}  // namespace qlora
