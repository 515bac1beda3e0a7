// W' = W + sum of weight * scale * B A, in float32, rounded once: an adapter becomes part of a linear. With DoRA each
// row of that is divided by its norm and multiplied by its magnitude.
#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "qlora/adapters/peft.h"

namespace qlora {

struct MergeInput {
  const LoraAdapter* adapter;
  double weight = 1.0;  // of its delta
};

struct MergedTensor {
  at::Tensor values;   // in the type asked for
  double drift = 0.0;  // ||round(W') - W'|| / ||W'||: what the rounding to that type loses
};

// `base` is a linear's weight [out, in], or an embedding's table [vocabulary, columns], of any float type. A delta of
// zeros leaves it as it is, bit for bit where the types agree. Throws DataError naming the module where the result is
// not finite, UsageError where an adapter with DoRA is not the only one, with weight 1.
MergedTensor merge_linear(const at::Tensor& base, const std::string& module, const std::vector<MergeInput>& adapters,
                          at::ScalarType dtype);

}  // namespace qlora
