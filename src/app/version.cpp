// Versions of libtorch and of what it was built with, asked at run time.
#include "qlora/app/version.h"

#include <ATen/Context.h>
#include <spdlog/fmt/fmt.h>
#include <torch/version.h>

#include "qlora/core/version.h"

#ifdef QLORA_CUDA
#include <cuda_runtime_api.h>

#include <ATen/cuda/CUDAContext.h>
#endif

namespace qlora {
namespace {

#ifdef QLORA_CUDA
std::string cuda_text() {
  int version = 0;
  if (cudaRuntimeGetVersion(&version) != cudaSuccess) return "none";
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

std::string cudnn_text() {
  if (!at::hasCUDA() || !at::detail::getCUDAHooks().compiledWithCuDNN()) return "none";
  const long version = at::detail::getCUDAHooks().versionRuntimeCuDNN();
  return fmt::format("{}.{}.{}", version / 10000, version % 10000 / 100, version % 100);
}

std::string gpu_text() {
  if (!at::hasCUDA() || at::detail::getCUDAHooks().deviceCount() == 0) return "none";
  const cudaDeviceProp* device = at::cuda::getCurrentDeviceProperties();
  return fmt::format("{} (sm_{}{}, {:.1f} GiB)", device->name, device->major, device->minor,
                     static_cast<double>(device->totalGlobalMem) / (1 << 30));
}
#else
std::string cuda_text() {
  return "none";
}
std::string cudnn_text() {
  return "none";
}
std::string gpu_text() {
  return "none";
}
#endif

}  // namespace

std::string version_text() {
  return fmt::format("qlora {}\nlibtorch {}\nCUDA {}\ncuDNN {}\nGPU {}\n", kVersion, TORCH_VERSION, cuda_text(),
                     cudnn_text(), gpu_text());
}

}  // namespace qlora
