// Compiled without fused multiply-adds, so that the 8-bit form rounds as the CPU's.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/adamw.h"

namespace qlora::kernels {
namespace {

constexpr int kThreads = 256;
constexpr unsigned kAllLanes = 0xffffffffU;

// [kThreads] -> the sum, in thread 0, always in the same order.
__device__ double block_sum(double value) {
  __shared__ double warps[kThreads / 32];
  for (int lane = 16; lane > 0; lane /= 2) value += __shfl_down_sync(kAllLanes, value, lane);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  double sum = 0.0;
  for (const double warp : warps) sum += warp;
  return sum;
}

__global__ void __launch_bounds__(kThreads)
    square_sum_kernel(const float* gradients, std::int64_t count, double* partials) {
  double sum = 0.0;
  constexpr std::int64_t kStride = static_cast<std::int64_t>(kNormPartials) * kThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count; i += kStride) {
    const double g = gradients[i];
    sum += g * g;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads)
    finish_norm_kernel(const double* partials, double max_norm, const float* loss, std::int64_t step,
                       StepStatus status) {
  double sum = 0.0;
  for (int i = threadIdx.x; i < kNormPartials; i += kThreads) sum += partials[i];
  sum = block_sum(sum);
  if (threadIdx.x != 0) return;
  const double norm = sqrt(sum);
  const double factor = max_norm / (norm + 1e-6);
  *status.norm = norm;
  *status.clip = max_norm > 0.0 && factor < 1.0 ? static_cast<float>(factor) : 1.0F;
  const bool finite = isfinite(norm) && (loss == nullptr || isfinite(*loss));
  if (!finite && *status.failed_step == 0) *status.failed_step = step;
}

// The segment that holds a tile.
__device__ const AdamWSegment& segment_of(const AdamWRange& range, std::int64_t tile) {
  int low = 0;
  int high = range.segment_count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (range.segments[middle].first_tile <= tile ? low : high) = middle;
  }
  return range.segments[low];
}

template <typename T>
__device__ void put_compute(void* compute, std::int64_t at, float value) {
  static_cast<T*>(compute)[at] = static_cast<T>(value);
}
template <>
__device__ void put_compute<void>(void*, std::int64_t, float) {}

// T: the type of the copy that is computed with; void: there is none.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    adamw_kernel(AdamWRange range, AdamWTarget target, AdamWState state, AdamWScalars s, StepStatus status) {
  if (*status.failed_step != 0) return;
  const std::int64_t tile = range.first_tile + blockIdx.x;
  const AdamWSegment& segment = segment_of(range, tile);
  const std::int64_t skip = (tile - segment.first_tile) * kAdamWTile;
  const auto count = static_cast<int>(min(segment.size - skip, kAdamWTile));
  const std::int64_t at = segment.begin + skip;
  const std::int64_t moment = segment.state + skip - state.state_begin;
  const float clip = *status.clip;
  const float rate = s.learning_rate * segment.rate;
  const float kept = 1.0F - rate * segment.decay;
#pragma unroll 4
  for (int i = threadIdx.x; i < count; i += kThreads) {
    const Moments m =
        next_moments({state.first[moment + i], state.second[moment + i]}, target.gradients[at + i] * clip, s);
    const float value =
        target.values[at + i] * kept - rate / s.correction1 * (m.first / (sqrtf(m.second) / s.correction2 + s.epsilon));
    state.first[moment + i] = m.first;
    state.second[moment + i] = m.second;
    target.values[at + i] = value;
    put_compute<T>(target.compute, at + i, value);
  }
}

// The largest of all threads' values, in all threads. `warps` is shared.
__device__ float block_max(float value, float* warps) {
  for (int lane = 16; lane > 0; lane /= 2) value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, lane));
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  for (int w = 0; w < kThreads / 32; ++w) value = fmaxf(value, warps[w]);
  return value;
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    adamw_8bit_kernel(AdamWRange range, AdamWTarget target, AdamW8bitState state, AdamWScalars s, StepStatus status) {
  static_assert(kThreads == kAdamW8bitTile && kThreads == 256, "a thread a value, and an entry of each map");
  __shared__ float map[256], unsigned_map[256], first_warps[kThreads / 32], second_warps[kThreads / 32];
  if (*status.failed_step != 0) return;
  map[threadIdx.x] = state.signed_map[threadIdx.x];
  unsigned_map[threadIdx.x] = state.unsigned_map[threadIdx.x];
  __syncthreads();
  const std::int64_t tile = range.first_tile + blockIdx.x;
  const AdamWSegment& segment = segment_of(range, tile);
  const std::int64_t in_segment = (tile - segment.first_tile) * kAdamW8bitTile + threadIdx.x;
  const bool inside = in_segment < segment.size;
  const std::int64_t at = segment.begin + in_segment;
  const std::int64_t moment = segment.state + in_segment - state.state_begin;
  Moments m{0.0F, 0.0F};
  if (inside) {
    const Moments old{map[state.first[moment]] * state.first_absmax[tile],
                      unsigned_map[state.second[moment]] * state.second_absmax[tile]};
    m = next_moments(old, target.gradients[at] * *status.clip, s);
  }
  const float top_first = block_max(fabsf(m.first), first_warps);
  const float top_second = block_max(m.second, second_warps);  // and with it every thread has read the old scales
  if (threadIdx.x == 0) {
    state.first_absmax[tile] = top_first;
    state.second_absmax[tile] = top_second;
  }
  if (!inside) return;
  const float value = adamw_8bit_update(target.values[at], m, s, s.learning_rate * segment.rate, segment.decay);
  target.values[at] = value;
  put_compute<T>(target.compute, at, value);
  state.first[moment] = first_moment_code(m.first, top_first, map);
  state.second[moment] = dynamic_code(m.second / top_second, unsigned_map);
}

// Calls launch.operator()<T>() for the type of the copy.
template <typename Launch>
cudaError_t for_compute_type(const AdamWTarget& target, Launch launch) {
  if (target.compute == nullptr) {
    launch.template operator()<void>();
  } else if (target.compute_type == FloatType::kFloat16) {
    launch.template operator()<__half>();
  } else if (target.compute_type == FloatType::kBFloat16) {
    launch.template operator()<__nv_bfloat16>();
  } else {
    launch.template operator()<float>();
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t gradient_norm(const float* gradients, std::int64_t count, double max_norm, const float* loss,
                          std::int64_t step, double* partials, const StepStatus& status, cudaStream_t stream) {
  square_sum_kernel<<<kNormPartials, kThreads, 0, stream>>>(gradients, count, partials);
  finish_norm_kernel<<<1, kThreads, 0, stream>>>(partials, max_norm, loss, step, status);
  return cudaGetLastError();
}

cudaError_t adamw(const AdamWRange& range, const AdamWTarget& target, const AdamWState& state,
                  const AdamWScalars& scalars, const StepStatus& status, cudaStream_t stream) {
  if (range.tiles == 0) return cudaSuccess;
  return for_compute_type(target, [&]<typename T>() {
    adamw_kernel<T><<<static_cast<unsigned>(range.tiles), kThreads, 0, stream>>>(range, target, state, scalars, status);
  });
}

cudaError_t adamw_8bit(const AdamWRange& range, const AdamWTarget& target, const AdamW8bitState& state,
                       const AdamWScalars& scalars, const StepStatus& status, cudaStream_t stream) {
  if (range.tiles == 0) return cudaSuccess;
  return for_compute_type(target, [&]<typename T>() {
    adamw_8bit_kernel<T>
        <<<static_cast<unsigned>(range.tiles), kThreads, 0, stream>>>(range, target, state, scalars, status);
  });
}

}  // namespace qlora::kernels
