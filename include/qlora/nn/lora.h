// An adapter as the operation that carries it sees it.
#pragma once

#include <cstdint>

#include "qlora/nn/dropout.h"
#include "qlora/nn/parameters.h"

namespace qlora {

// On the output columns [begin, begin + out): y += scale * dropout(x) A^T B^T (Hu et al. 2021); with a magnitude m
// (DoRA, Liu et al. 2024) y = m / ||W + scale * B A|| * x (W + scale * B A)^T, the norm of each output's row of
// weights, which no gradient flows through.
struct LoraSegment {
  std::int64_t begin = 0;  // first output column
  std::int64_t out = 0;
  std::int64_t rank = 0;
  double scale = 1.0;  // alpha / r, or alpha / sqrt(r)
  double dropout = 0.0;
  DropoutKey key;
  ParameterSet::Id a = -1;          // [rank, in]; the A of one projection's adapters are neighbours in the ParameterSet
  ParameterSet::Id b = -1;          // [out, rank]
  ParameterSet::Id magnitude = -1;  // [out]; -1: no DoRA
};

}  // namespace qlora
