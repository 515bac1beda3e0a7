// Rotary position embedding in the half-split layout; see nn/rope.h for the formula.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace qlora::kernels {

// Rotates the first `rotated_heads` of each token's `heads` heads in place by sign * angle. x [tokens, heads *
// head_dim] T, positions [tokens], cos and sin [at least max(positions) + 1, head_dim / 2] float.
template <class T>
cudaError_t rope(T* x, const std::int64_t* positions, const float* cos, const float* sin, std::int64_t tokens,
                 std::int64_t rotated_heads, std::int64_t heads, std::int64_t head_dim, float sign,
                 cudaStream_t stream);

}  // namespace qlora::kernels
