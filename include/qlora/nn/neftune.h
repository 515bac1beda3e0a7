// NEFTune (Jain et al. 2023, "Noisy Embeddings Improve Instruction Finetuning"): uniform noise on embeddings.
#pragma once

#include <cstdint>

#include "qlora/nn/batch.h"

namespace qlora {

// x[t, f] += u * alpha / sqrt(L * columns), u uniform in (-1, 1), L the length of t's own row. u is a function of
// (seed, optimizer step, row of the effective batch, position, feature): the same for every split into micro-batches,
// on every device. x [tokens, columns] of any float type; tail tokens stay as they are.
void add_neftune_noise(const at::Tensor& x, const Batch& batch, double alpha, std::uint64_t seed);

// Bytes that it takes and gives back.
std::int64_t neftune_workspace(std::int64_t tokens, std::int64_t columns);

}  // namespace qlora
