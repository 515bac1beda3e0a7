// Dropout whose masks are a function of where they are used: no state, nothing stored, the same in forward and backward
// and for every split of the effective batch into micro-batches.
#pragma once

#include <array>
#include <cstdint>

#include "qlora/nn/batch.h"

namespace qlora {

// Philox4x32 (Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3": seven rounds are the fewest that pass
// all tests).
std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key,
                                    int rounds = 10);

struct DropoutKey {
  std::uint64_t seed = 0;
  std::uint32_t linear = 0;  // one number an adapter
};

// p in 65536ths: features are kept whose random number of 16 bits is at least this.
std::uint32_t dropout_threshold(double p);

// out[t, f] = x[t, f] * keep / (1 - p), with keep from (seed, optimizer step, row of the effective batch, position,
// linear, feature): 16 bits of a draw of seven rounds for eight features. Added to `out` where `accumulate`. x, out
// [tokens, features], may be the same tensor. Tail tokens are not dropped.
void apply_dropout(const at::Tensor& x, const at::Tensor& out, const Batch& batch, const DropoutKey& key, double p,
                   bool accumulate = false);

// The same where row i of x is token tokens[i] of the batch: int64 [rows of x].
void apply_dropout_at(const at::Tensor& tokens, const at::Tensor& x, const at::Tensor& out, const Batch& batch,
                      const DropoutKey& key, double p, bool accumulate = false);

}  // namespace qlora
