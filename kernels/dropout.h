// Dropout with counter-based masks; see nn/dropout.h for what keys them.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace qlora::kernels {

struct DropoutMask {
  const std::int32_t* rows;       // [tokens] the token's row in the effective batch; negative: nothing is dropped
  const std::int64_t* positions;  // [tokens] its position in the row
  const std::uint32_t* step;      // the optimizer step
  std::uint32_t seed;             // both halves of the seed, exclusive-or
  std::uint32_t linear;
  std::uint32_t threshold;  // p * 2^16: an element is kept where its random number of 16 bits is at least this
  float scale;              // 1 / (1 - p)
};

// out = x * mask, or out += x * mask where `accumulate`. x, out [tokens, features] T, may be the same.
template <class T>
cudaError_t dropout(const T* x, T* out, const DropoutMask& mask, std::int64_t tokens, std::int64_t features,
                    bool accumulate, cudaStream_t stream);

}  // namespace qlora::kernels
