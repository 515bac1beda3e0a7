// AdamW with decoupled decay (Loshchilov & Hutter 2019) over the flat buffers of a ParameterSet, as torch.optim.AdamW:
//   p -= lr * decay * p;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
//   p -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)
// or with 8-bit moments as bitsandbytes (train/adamw_8bit.h).
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "qlora/nn/parameters.h"
#include "qlora/train/adamw_layout.h"
#include "qlora/train/options.h"

namespace qlora {

struct AdamWSettings {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.0;  // spares parameters that do not decay
  bool eight_bit = false;     // moments in 8 bits; tensors under kSmallest8bitTensor values keep fp32 ones
  bool paged = false;         // on a GPU: moments in pinned host memory, through two buffers of the device
  double lora_b_rate = 1.0;   // LoRA+ (Hayou et al. 2024): times the learning rate, for every lora_B
};

// The optimizer that `optim` and its companions ask for.
AdamWSettings adamw_settings(const TrainOptions& options);

// The moments of all parameters: fp32 for some (wide), 8-bit codes for others (narrow).
struct AdamWMoments {
  std::vector<AdamWSegment> wide, narrow;
  std::int64_t wide_size = 0, narrow_size = 0;  // values
  at::Tensor first, second;                     // fp32 [wide_size] (fp64 where the parameters are)
  at::Tensor first_codes, second_codes;         // uint8 [narrow_size]
  at::Tensor first_absmax, second_absmax;       // fp32, one a tile of the narrow segments
};

// The same in words: how many bytes the moments take, and where.
struct OptimizerBytes {
  std::int64_t device = 0, host = 0;
};
OptimizerBytes optimizer_bytes(const ParameterSet& parameters, const AdamWSettings& settings, at::Device device);

// Steps of a device that needs no waiting for.
class DeviceAdamW;

class AdamW {
 public:
  AdamW(ParameterSet& parameters, AdamWSettings settings);
  ~AdamW();
  AdamW(const AdamW&) = delete;
  AdamW& operator=(const AdamW&) = delete;

  // Clips all gradients together to max_norm > 0 (0: not), updates the parameters and makes the copy that is computed
  // with. Returns the gradients' L2 norm before clipping, 0-d float64 on the parameters' device. Where the norm or
  // `loss` (0-d; float32 on a GPU; may be undefined) is NaN or Inf nothing is updated, neither in this step nor in any
  // later one. A GPU is not waited for. The gradients of the CPU are clipped in place.
  at::Tensor step(double learning_rate, double max_norm = 0.0, const at::Tensor& loss = {});

  // The first step that found NaN or Inf; 0: none. Waits for the device.
  std::int64_t failed_step() const;

  std::int64_t steps() const { return steps_; }

  // After a step that found NaN or Inf: `steps` were applied, the next one is tried anew.
  void forget_failure(std::int64_t steps);

  // The moments by the names that checkpoints have: exp_avg and exp_avg_sq in fp32, and with 8 bits exp_avg_codes,
  // exp_avg_absmax, exp_avg_sq_codes, exp_avg_sq_absmax. They are the optimizer's own; valid until the next step.
  std::map<std::string, at::Tensor> state() const;
  // Throws DataError where names or sizes are not those of state().
  void restore(const std::map<std::string, at::Tensor>& state, std::int64_t steps);

 private:
  void update_wide(double learning_rate);
  void update_narrow(const AdamWScalars& scalars);

  ParameterSet& parameters_;
  AdamWSettings settings_;
  AdamWMoments moments_;
  std::unique_ptr<DeviceAdamW> device_;  // on a GPU
  std::int64_t steps_ = 0, failed_step_ = 0;
};

// The L2 norm of all gradients together. Then, where it is above max_norm > 0, every gradient is scaled by
// max_norm / (norm + 1e-6), as torch's clip_grad_norm_. Waits for the device.
double clip_gradients(ParameterSet& parameters, double max_norm);

}  // namespace qlora
