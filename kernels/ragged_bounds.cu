#include "kernels/common.cuh"
#include "kernels/ragged_bounds.h"

namespace qlora::kernels {
namespace {

__global__ void ragged_bounds_kernel(const std::int32_t* __restrict__ bounds, std::int64_t rows, RaggedStrides strides,
                                     std::int32_t* lengths, std::int64_t* offsets) {
  for (std::int64_t i = blockIdx.x * blockDim.x + threadIdx.x; i <= rows; i += gridDim.x * blockDim.x) {
    const std::int64_t begin = bounds[i];
    if (i < rows) lengths[i] = bounds[i + 1] - bounds[i];
#pragma unroll
    for (int s = 0; s < 3; ++s) offsets[s * (rows + 1) + i] = begin * strides.values[s];
  }
}

}  // namespace

cudaError_t ragged_bounds(const std::int32_t* bounds, std::int64_t rows, RaggedStrides strides, std::int32_t* lengths,
                          std::int64_t* offsets, cudaStream_t stream) {
  ragged_bounds_kernel<<<grid_for(rows + 1, 128), 128, 0, stream>>>(bounds, rows, strides, lengths, offsets);
  return cudaGetLastError();
}

}  // namespace qlora::kernels
