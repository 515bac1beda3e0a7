// The loss of a prepared set, per row and over all tokens.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <vector>

#include "qlora/data/prepared_set.h"
#include "qlora/models/decoder.h"

namespace qlora {

struct RowLoss {
  double nll = 0.0;         // sum over the row's labelled tokens of -log p
  std::int64_t tokens = 0;  // labelled tokens that have a token before them
};

struct SetLoss {
  std::vector<RowLoss> rows;    // in the set's order
  std::int64_t more_bytes = 0;  // that were taken beyond `arena`
  double mean() const;          // over all tokens; 0 where there is none
};

// Hears of the rows of each batch that was run, and of all losses so far.
using OnBatch = std::function<void(std::span<const std::uint32_t> rows, const SetLoss& loss)>;

// Runs the set in its order, `batch_size` rows at a time. `on_batch` may be empty. `arena` is overwritten (see
// ProgramCache). `known`: losses by row, from an earlier run; a batch of known rows alone is not run again.
SetLoss evaluate_loss(Decoder& decoder, const PreparedSet& set, std::int64_t batch_size, const OnBatch& on_batch = {},
                      const at::Tensor& arena = {}, const std::map<std::uint32_t, RowLoss>& known = {});

}  // namespace qlora
