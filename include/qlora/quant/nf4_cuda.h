// NF4 on CUDA tensors: the kernels' launches, checked. A build without CUDA has no device to call these for; there they
// throw RuntimeFailure.
#pragma once

#include <string>

#include "qlora/quant/nf4_weight.h"

namespace qlora::cuda {

// values: contiguous F32, F16 or BF16 -> codes and absmax, allocated. Waits for the device. Throws as nf4_quantize.
void nf4_quantize(const at::Tensor& values, const at::Tensor& codes, const at::Tensor& absmax, const std::string& name);

// absmax [blocks] and the map [256] -> absmax_codes, nested_absmax, allocated; returns the offset. Waits for the
// device. The mean is torch's own, as bitsandbytes takes it. Throws as nf4_nest_absmax.
float nf4_nest_absmax(const at::Tensor& absmax, const at::Tensor& map, const at::Tensor& absmax_codes,
                      const at::Tensor& nested_absmax, const std::string& name);

// out: F32, F16 or BF16 on the weight's device, the last dimension contiguous.
void nf4_dequantize(const Nf4Weight& weight, const at::Tensor& out);

}  // namespace qlora::cuda
