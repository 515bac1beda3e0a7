// NF4 on CUDA tensors: the kernels' launches, checked. A build without CUDA has no device to call these for; there they
// throw RuntimeFailure.
#pragma once

#include <string>
#include <vector>

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

// out, e4m3, its rows perhaps apart: as nf4_to_fp8 in nf4_weight.h.
void nf4_to_fp8(const Nf4Weight& weight, const at::Tensor& scale, bool transposed, const at::Tensor& out);

// out [rows, sum of out] = x [rows, in] times the transposed weights [out, in], plus addend and bias where they are
// defined; see kernels/nf4_matvec.h. False, and nothing done, where the kernel does not serve.
bool nf4_matvec(const std::vector<const Nf4Weight*>& weights, const at::Tensor& x, const at::Tensor& addend,
                const at::Tensor& bias, const at::Tensor& out);

}  // namespace qlora::cuda
