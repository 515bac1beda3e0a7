// Where rows of a packed batch begin, as cuDNN's ragged tensors want it.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace qlora::kernels {

// Of `rows` rows with int32 bounds [rows + 1]: lengths [rows], and for each of three strides (elements a token)
// offsets[i] [rows + 1] = bounds * strides[i], one after another.
struct RaggedStrides {
  std::int64_t values[3];
};
cudaError_t ragged_bounds(const std::int32_t* bounds, std::int64_t rows, RaggedStrides strides, std::int32_t* lengths,
                          std::int64_t* offsets, cudaStream_t stream);

}  // namespace qlora::kernels
