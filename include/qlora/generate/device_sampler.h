// The next tokens of all rows of a batch, on the device that made their logits: what Sampler does, row by row.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

#include "qlora/generate/options.h"

namespace qlora {

class DeviceSampler {
 public:
  // `slots`: rows that are generated at a time, each under its number.
  DeviceSampler(const GenerateOptions& options, std::uint64_t seed, std::int64_t slots, std::int64_t vocabulary,
                at::Device device);

  // A row begins in this slot with these tokens.
  void begin(std::int64_t slot, std::span<const std::int32_t> ids);

  // Whose token is drawn: its slot, and what its random number is drawn from.
  struct Draw {
    std::int64_t slot;
    std::uint64_t row, position;
  };
  // logits: float32 or float64 [rows, vocabulary], one row a draw -> int64 [rows] on the device, which is not waited
  // for. Of equally likely tokens at the end of top-k any may be left out.
  at::Tensor next(const at::Tensor& logits, const std::vector<Draw>& draws);

 private:
  at::Tensor draw(const at::Tensor& logits, const std::vector<Draw>& draws) const;

  GenerateOptions options_;
  std::uint64_t seed_;
  at::Device device_;
  at::Tensor seen_;  // bool [slots, vocabulary]: tokens of the row so far; undefined where nothing asks for them
};

}  // namespace qlora
