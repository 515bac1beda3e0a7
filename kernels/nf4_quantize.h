// NF4 quantization on the GPU: the bytes of bitsandbytes' kernels (include/qlora/quant/nf4.h has the definition).
// Pointers are the device's; work is queued on `stream`; what comes back is the launch's error.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/float_type.h"

namespace qlora::kernels {

// values [count], 16-byte aligned -> codes [(count + 1) / 2], 4-byte aligned, and absmax [ceil(count / 64)] fp32.
// *first_bad becomes the smaller of itself and the index of the first value that is NaN or Inf. The codes of such a
// block mean nothing.
cudaError_t nf4_quantize(const void* values, FloatType type, std::int64_t count, std::uint8_t* codes, float* absmax,
                         std::uint64_t* first_bad, cudaStream_t stream);

// absmax - offset [blocks] in the signed dynamic map [256] -> absmax_codes [blocks], nested_absmax [ceil(blocks /
// 256)].
cudaError_t nf4_nest_absmax(const float* absmax, std::int64_t blocks, float offset, const float* map,
                            std::uint8_t* absmax_codes, float* nested_absmax, cudaStream_t stream);

}  // namespace qlora::kernels
