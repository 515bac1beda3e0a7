#include "qlora/quant/pinned.h"

#include <ATen/ops/from_blob.h>

#ifdef QLORA_CUDA
#include <cuda_runtime.h>

#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace qlora {

#ifdef QLORA_CUDA
namespace {

at::Tensor pinned_copy(const at::Tensor& values) {
  const c10::cuda::CUDAGuard guard(values.device());
  const c10::cuda::CUDAStream stream = c10::cuda::getCurrentCUDAStream();
  const at::Tensor own = values.contiguous();
  // Of this size to the byte, where torch's allocator would take the next power of two.
  void* host = nullptr;
  C10_CUDA_CHECK(cudaHostAlloc(&host, own.nbytes(), cudaHostAllocMapped));
  void* address = nullptr;
  C10_CUDA_CHECK(cudaHostGetDevicePointer(&address, host, 0));
  at::Tensor copy = at::from_blob(
      address, own.sizes(), [host](void*) { static_cast<void>(cudaFreeHost(host)); }, own.options(), own.device());
  C10_CUDA_CHECK(cudaMemcpyAsync(host, own.const_data_ptr(), own.nbytes(), cudaMemcpyDeviceToHost, stream));
  stream.synchronize();
  return copy;
}

}  // namespace
#endif

at::Tensor in_host_memory(const at::Tensor& values) {
  if (values.is_cpu()) return values.clone();
#ifdef QLORA_CUDA
  return pinned_copy(values);
#else
  TORCH_CHECK(false, "this build has no CUDA");
#endif
}

}  // namespace qlora
