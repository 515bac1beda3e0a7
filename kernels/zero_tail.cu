#include "kernels/common.cuh"
#include "kernels/zero_tail.h"

namespace qlora::kernels {
namespace {

template <class Word>
__global__ void zero_tail_kernel(Word* x, const std::int32_t* first, std::int64_t rows, std::int64_t row_words) {
  const std::int64_t begin = *first * row_words;
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = begin + static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < rows * row_words;
       i += stride) {
    x[i] = Word{};
  }
}

}  // namespace

cudaError_t zero_tail(void* x, const std::int32_t* first, std::int64_t rows, std::int64_t row_bytes,
                      cudaStream_t stream) {
  constexpr int kBlocks = 132;
  if (row_bytes % 16 == 0 && aligned(x)) {
    zero_tail_kernel<<<kBlocks, 256, 0, stream>>>(static_cast<uint4*>(x), first, rows, row_bytes / 16);
  } else {
    zero_tail_kernel<<<kBlocks, 256, 0, stream>>>(static_cast<std::uint16_t*>(x), first, rows, row_bytes / 2);
  }
  return cudaGetLastError();
}

}  // namespace qlora::kernels
