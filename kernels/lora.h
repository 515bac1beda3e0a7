// LoRA's products with the input of a linear layer, for several adapters at once, each with its own dropout mask of the
// input; see nn/projection.h. On the tensor cores: T is __half or __nv_bfloat16, sums are float32. They need compute
// capability 8.0 and input rows that are multiples of 8 features, 16-byte aligned.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/dropout.h"

namespace qlora::kernels {

constexpr int kMostLoraAdapters = 4;

template <class T>
struct LoraAdapters {
  struct Adapter {
    const T* a;  // [rank, in], 16-byte aligned
    float* d_a;  // [rank, in], 8-byte aligned
    int rank;
    int column;        // the first of its columns in u and d_u
    DropoutMask mask;  // threshold 0: nothing is dropped, and nothing of it is read
  };
  Adapter of[kMostLoraAdapters];
  int count;
};

// u[:, column .. column + rank) = dropout(x) a^T, for each adapter. x [tokens, in], rows `x_pitch` elements apart;
// u [tokens, ranks].
template <class T>
cudaError_t lora_down(const T* x, std::int64_t x_pitch, const LoraAdapters<T>& adapters, T* u, std::int64_t tokens,
                      std::int64_t in, std::int64_t ranks, cudaStream_t stream);

// How many floats of workspace lora_down_backward needs.
std::int64_t lora_workspace(std::int64_t tokens, std::int64_t in, std::int64_t ranks);

// With d_u [tokens, ranks], zero for tokens of no row:
//   d_a += d_u^T dropout(x), for each adapter;
//   d_x = the sum over adapters of dropout(d_u a), added to d_x where `accumulate`. d_x [tokens, in], rows `d_x_pitch`
//   apart, may be x (not where `accumulate`), or null: not wanted.
// x is read once where one launch serves: of up to three adapters of rank 16 or less, or one of rank 64 or less. Sums
// are taken in a fixed order: runs are equal to the bit.
template <class T>
cudaError_t lora_down_backward(const T* x, std::int64_t x_pitch, const T* d_u, const LoraAdapters<T>& adapters, T* d_x,
                               std::int64_t d_x_pitch, bool accumulate, float* workspace, std::int64_t tokens,
                               std::int64_t in, std::int64_t ranks, cudaStream_t stream);

// The other half: y[:, begin .. begin + out) = scale * u[:, column .. column + rank) b^T, for each adapter; plus
// `residual` where it is not null.
template <class T>
struct LoraOutputs {
  struct Output {
    const T* b;  // [out, rank], 4-byte aligned
    int rank;    // at most 64
    int column;
    int begin, out;  // multiples of 8
    float scale;
  };
  Output of[kMostLoraAdapters];
  int count;
};

// u [tokens, ranks]; residual, y [tokens, columns], 16-byte aligned; may be the same.
template <class T>
cudaError_t lora_up(const T* u, const LoraOutputs<T>& outputs, const T* residual, T* y, std::int64_t tokens,
                    std::int64_t ranks, std::int64_t columns, cudaStream_t stream);

}  // namespace qlora::kernels
