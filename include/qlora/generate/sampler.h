// The next token from logits: greedy, or drawn after transformers' logits processors in transformers' order.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "qlora/generate/options.h"

namespace qlora {

// Uniform in [0, 1) with 53 bits.
double sampling_uniform(std::uint64_t seed, std::uint64_t row, std::uint64_t position);

// One row at a time on the host: what DeviceSampler is tested against.
class Sampler {
 public:
  Sampler(const GenerateOptions& options, std::uint64_t seed) : options_(options), seed_(seed) {}

  // logits [vocabulary], changed in place: repetition penalty over `seen` (prompt and answer so far), temperature,
  // top-k, top-p, min-p. The random number depends on (seed, row, position) alone, never on the batch.
  std::int32_t next(std::span<float> logits, std::span<const std::int32_t> seen, std::uint64_t row,
                    std::uint64_t position) const;

  bool greedy() const { return options_.temperature == 0.0; }

 private:
  std::int32_t draw(std::span<float> logits, std::uint64_t row, std::uint64_t position) const;

  GenerateOptions options_;
  std::uint64_t seed_;
};

}  // namespace qlora
