// The loss of a prepared set, per row and over all tokens.
#pragma once

#include <cstdint>
#include <functional>
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

// Runs the set in its order, `batch_size` rows at a time. `progress` hears of the rows done so far; may be empty.
// `arena` is overwritten (see ProgramCache).
SetLoss evaluate_loss(Decoder& decoder, const PreparedSet& set, std::int64_t batch_size,
                      const std::function<void(std::int64_t)>& progress = {}, const at::Tensor& arena = {});

}  // namespace qlora
