// An operation says beforehand what memory it needs, and then writes only into the views it is given, on every device.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include "qlora/core/host_tensor.h"
#include "qlora/nn/batch.h"

namespace qlora {

using Dtype = at::ScalarType;

enum class Life {
  kSaved,            // small; written by forward, read by backward, always kept
  kForwardScratch,   // only while forward runs
  kBackwardScratch,  // only while backward runs
};

struct BufferSpec {
  std::string name;
  Shape shape;
  Dtype dtype;
  Life life;
};

// What an operation needs for batches of one shape. Its output may be kept or made again, as the program's policy says.
struct OperationPlan {
  Shape output;
  Dtype dtype;
  std::vector<BufferSpec> buffers;
  // Bytes that one call takes at most from the device's allocator itself, and gives back. Not counted on the CPU.
  std::int64_t workspace = 0;
};

// What the program compiler must know to lay out memory and to order passes.
struct OperationTraits {
  std::vector<bool> backward_reads_input;  // one an input
  bool backward_reads_output = false;
  bool in_place = false;                  // the output is input 0's storage; likewise d_in[0] is d_out's
  int pass_through = -1;                  // the input whose gradient is d_out unchanged (a residual)
  bool d_in_may_overwrite_input = false;  // backward is done with in[0] before it writes d_in[0]
  bool reads_host_rows = false;           // goes by what the host knows of the batch: captured, it serves no other
  bool cheap = false;                     // worth making again rather than keeping (norms, activations)
};

// The views of one operation in one layer of a program: resolved once, used every step.
struct OperationViews {
  std::vector<at::Tensor> in;
  at::Tensor out;
  std::vector<at::Tensor> buffers;  // in plan()'s order
  at::Tensor d_out;
  std::vector<at::Tensor> d_in;  // undefined where no gradient is wanted
  std::vector<bool> accumulate;  // d_in[i] holds a gradient already: add to it
};

class Operation {
 public:
  virtual ~Operation() = default;
  virtual std::string_view name() const = 0;
  virtual OperationPlan plan(const BatchShape& shape) const = 0;
  virtual OperationTraits traits() const = 0;
  // Whether it has parameters that receive gradients: backward adds them to ParameterSet::grad().
  virtual bool trainable() const { return false; }
  virtual void forward(const Batch& batch, const OperationViews& views) = 0;
  // Writes d_in from d_out; adds the gradients of its parameters.
  virtual void backward(const Batch& batch, const OperationViews& views) = 0;
};

}  // namespace qlora
