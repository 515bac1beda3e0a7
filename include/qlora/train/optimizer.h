// AdamW with decoupled decay (Loshchilov & Hutter 2019) over the flat buffers of a ParameterSet, as torch.optim.AdamW:
//   p -= lr * decay * p;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
//   p -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)
#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "qlora/nn/parameters.h"

namespace qlora {

struct AdamWSettings {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.0;  // spares parameters that do not decay
};

class AdamW {
 public:
  AdamW(ParameterSet& parameters, AdamWSettings settings);

  void step(double learning_rate);

  // State: flat, as the parameters; and how many steps were taken.
  const at::Tensor& first_moment() const { return first_; }
  const at::Tensor& second_moment() const { return second_; }
  std::int64_t steps() const { return steps_; }
  void restore(const at::Tensor& first, const at::Tensor& second, std::int64_t steps);

 private:
  struct Segment {  // neighbours that share their decay
    std::int64_t begin, size;
    bool decays;
  };

  ParameterSet& parameters_;
  AdamWSettings settings_;
  std::vector<Segment> segments_;
  at::Tensor first_, second_;
  std::int64_t steps_ = 0;
};

// The L2 norm of all gradients together (0-d, float64). Then, where it is above max_norm > 0, every gradient is scaled
// by max_norm / (norm + 1e-6), as torch's clip_grad_norm_.
double clip_gradients(ParameterSet& parameters, double max_norm);

}  // namespace qlora
