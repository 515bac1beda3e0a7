// The tensor cores' 16-bit product of one warp, and copies into shared memory that do not wait: thin names for PTX.
// A lane is 4 g + q, with g in 0..7 and q in 0..3. Needs compute capability 8.0; below, code that uses it is empty.
#pragma once

#include <type_traits>

#include "kernels/common.cuh"

namespace qlora::kernels {

// d += a b, summed in float32. Two neighbouring elements of T lie in a word.
//   a [16, 16]: row g, columns 2q and 2q + 1; row g + 8, the same columns; row g, columns 2q + 8 and 2q + 9; row g + 8.
//   b [16, 8]:  column g, rows 2q and 2q + 1; rows 2q + 8 and 2q + 9.
//   d [16, 8]:  row g, columns 2q and 2q + 1; row g + 8, the same columns.
template <class T>
__device__ __forceinline__ void mma(float (&d)[4], uint4 a, uint2 b) {
#if __CUDA_ARCH__ >= 800
  if constexpr (std::is_same_v<T, __half>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y));
  }
#endif
}

// The transpose of an 8 x 8 matrix of 16-bit elements: a lane gives row g, columns 2q and 2q + 1, and gets column g,
// rows 2q and 2q + 1.
__device__ __forceinline__ std::uint32_t transposed(std::uint32_t x) {
  std::uint32_t y = 0;
#if __CUDA_ARCH__ >= 800
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
#endif
  return y;
}

// Bytes (4, 8 or 16) to shared memory, zeros where not `there`. Whoever copies waits, and is then the only one who may
// read without a barrier.
template <int kBytes>
__device__ __forceinline__ void copy_async(void* shared, const void* from, bool there) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;"
               :
               : "r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(shared))), "l"(from), "n"(kBytes),
                 "r"(there ? kBytes : 0)
               : "memory");
#endif
}

// Closes the group of copies that this thread has begun.
__device__ __forceinline__ void close_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most the kOpen latest groups are under way.
template <int kOpen>
__device__ __forceinline__ void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kOpen) : "memory");
#endif
}

}  // namespace qlora::kernels
