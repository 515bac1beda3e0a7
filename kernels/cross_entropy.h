// Cross-entropy of rows of logits, with its gradient.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace qlora::kernels {

// nll[i] = logsumexp(logits[i]) - logits[i, target]; then, where `scale` is given, the logits become their gradient
// *scale * (softmax(logits[i]) - onehot(target)). A negative target counts for nothing: nll and gradient are 0.
// logits [rows, vocabulary] T, targets [rows], nll [rows] float.
template <class T>
cudaError_t cross_entropy(T* logits, const std::int64_t* targets, float* nll, const float* scale, std::int64_t rows,
                          std::int64_t vocabulary, cudaStream_t stream);

// *out = *scale * the sum of values [count], in a fixed order.
cudaError_t scaled_sum(const float* values, const float* scale, float* out, std::int64_t count, cudaStream_t stream);

}  // namespace qlora::kernels
