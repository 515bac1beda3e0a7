// Gated activation; see nn/gated_activation.h for the formula.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace qlora::kernels {

// y = round(silu(gate)) * up. x [rows, 2 * columns] T = gate beside up, y [rows, columns] T.
template <class T>
cudaError_t swiglu(const T* x, T* y, std::int64_t rows, std::int64_t columns, cudaStream_t stream);

// d_up = d_y * silu(gate), d_gate = d_y * up * silu'(gate), side by side in d_x; added where `accumulate`. d_x may be
// x.
template <class T>
cudaError_t swiglu_backward(const T* x, const T* d_y, T* d_x, std::int64_t rows, std::int64_t columns, bool accumulate,
                            cudaStream_t stream);

}  // namespace qlora::kernels
