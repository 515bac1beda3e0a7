// Zeroes what belongs to no row of a packed batch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace qlora::kernels {

// Rows *first .. rows - 1 of x [rows, row_bytes] become zero; row_bytes is a multiple of 2, and x aligned to it.
cudaError_t zero_tail(void* x, const std::int32_t* first, std::int64_t rows, std::int64_t row_bytes,
                      cudaStream_t stream);

}  // namespace qlora::kernels
