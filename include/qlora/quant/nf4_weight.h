// A weight in NF4 on the device that computes with it, and the dispatch between the CPU's code and the CUDA kernels:
// the same bytes on both.
#pragma once

#include <string>

#include <ATen/core/Tensor.h>

#include "qlora/core/host_tensor.h"
#include "qlora/quant/nf4.h"

namespace qlora {

// The parts of an Nf4Tensor as tensors of one device.
struct Nf4Weight {
  Shape shape;
  ElementType dtype = ElementType::kBF16;  // of the weights it was made from
  at::Tensor codes;                        // uint8 [nf4_code_bytes(count)]
  at::Tensor absmax;                       // fp32 [blocks]; undefined where nested
  at::Tensor absmax_codes;                 // uint8 [blocks]
  at::Tensor nested_absmax;                // fp32 [nf4_nested_blocks(blocks)]
  at::Tensor nested_map;                   // fp32 [256]
  float nested_offset = 0.0F;

  bool nested() const { return absmax_codes.defined(); }
  std::int64_t count() const { return element_count(shape).value_or(0); }
  std::int64_t bytes() const;
  Nf4View view() const;  // pointers of the weight's device; valid while this lives
};

// Quantizes `values` (F64, F32, F16 or BF16, of any device) on `device`. On a GPU they travel in their own type and are
// gone when this returns. Throws DataError naming the tensor for NaN and Inf, and where its scales cannot be nested.
Nf4Weight nf4_quantize(const at::Tensor& values, at::Device device, bool nested, const std::string& name);

// What such a weight of `count` values takes.
std::int64_t nf4_weight_bytes(std::int64_t count, bool nested);

// Copies.
Nf4Weight to_device(const Nf4Tensor& tensor, at::Device device);
Nf4Tensor to_host(const Nf4Weight& weight);

// Decodes into `out` of the weight's shape: on its device in F32, F16 or BF16, queued on torch's current stream; rows
// may lie further apart than they are long. Into other tensors through a copy.
void nf4_dequantize(const Nf4Weight& weight, const at::Tensor& out);

// The largest absolute value that a matrix decodes to: fp32 [], on its device.
at::Tensor nf4_largest(const Nf4Weight& weight);

// A matrix [n, k] in fp8: e4m3(w * scale[1]) into `out`, e4m3 [n, k], or transposed [k, n], on the weight's device; its
// rows may lie further apart than they are long. scale: fp32 [2]. n and k are multiples of 16.
void nf4_to_fp8(const Nf4Weight& weight, const at::Tensor& scale, bool transposed, const at::Tensor& out);

}  // namespace qlora
