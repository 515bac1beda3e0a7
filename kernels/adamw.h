// The optimizer's kernels: the norm of all gradients, and clipping and AdamW fused over one flat buffer in segments.
// Pointers are the device's; work is queued on `stream`; what comes back is the launch's error. Nothing waits: what a
// step finds out (its norm, whether it failed) stays on the device.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "qlora/train/adamw_8bit.h"

#include "kernels/float_type.h"

namespace qlora::kernels {

inline constexpr int kNormPartials = 1024;

// What a step's norm decides.
struct StepStatus {
  double* norm;               // [1], L2 norm of the gradients before clipping
  float* clip;                // [1], what every gradient is multiplied by: max_norm / (norm + 1e-6), at most 1
  std::int64_t* failed_step;  // [1], the first step whose norm or loss was NaN or Inf; 0: none yet. It stays.
};

// The norm of gradients [count], summed in fp64 in an order that no device changes; max_norm 0: no clipping. `loss` [1]
// may be null. `partials` [kNormPartials] is scratch.
cudaError_t gradient_norm(const float* gradients, std::int64_t count, double max_norm, const float* loss,
                          std::int64_t step, double* partials, const StepStatus& status, cudaStream_t stream);

struct AdamWTarget {
  float* values;           // flat, as the gradients
  const float* gradients;  // unchanged: clipping happens on the way
  void* compute;           // flat copy in `compute_type`, written anew; may be null
  FloatType compute_type;
};

// Tiles [first_tile, first_tile + tiles) of the segments [segment_count], on the device and ascending.
struct AdamWRange {
  const AdamWSegment* segments;
  int segment_count;
  std::int64_t first_tile, tiles;
};

// Moments: those of the range's first value lie at [state - state_begin] for that segment's `state`.
struct AdamWState {
  float *first, *second;
  std::int64_t state_begin;
};
struct AdamW8bitState {
  std::uint8_t *first, *second;
  std::int64_t state_begin;
  float *first_absmax, *second_absmax;     // [all tiles]
  const float *signed_map, *unsigned_map;  // [256]
};

// One step of torch.optim.AdamW (train/optimizer.h), of bitsandbytes' 8-bit AdamW (train/adamw_8bit.h). Where
// status.failed_step is not 0 they change nothing.
cudaError_t adamw(const AdamWRange& range, const AdamWTarget& target, const AdamWState& state,
                  const AdamWScalars& scalars, const StepStatus& status, cudaStream_t stream);
cudaError_t adamw_8bit(const AdamWRange& range, const AdamWTarget& target, const AdamW8bitState& state,
                       const AdamWScalars& scalars, const StepStatus& status, cudaStream_t stream);

}  // namespace qlora::kernels
