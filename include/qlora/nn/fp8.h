// Products with a frozen weight in fp8: both sides as e4m3 (Micikevicius et al. 2022, "FP8 Formats for Deep Learning"),
// the weight with one scale for the whole, the other side with one a row; sums in float32.
#pragma once

#include "qlora/nn/gemm.h"
#include "qlora/quant/weight_store.h"

namespace qlora {

// Where the rows of the product's other side are held meanwhile.
struct Fp8Rows {
  at::Tensor codes;   // e4m3 [m, k], contiguous
  at::Tensor scales;  // float32 [m]
};

// How products are summed on tensor cores: kFast in the some 14 bits that Hopper's keep by themselves, kExact by way of
// float32 registers. As TransformerEngine has it: fast forward, exact backward.
enum class Fp8Sums { kFast, kExact };

// out [m, n] = x W^T + addend + bias, with W [n, k] and x [m, k] rounded to e4m3: each row of x in units of its largest
// absolute value / 448. On CUDA through cuBLASLt; elsewhere the rounded values are multiplied in float32.
void fp8_gemm(const at::Tensor& out, const at::Tensor& x, const Fp8Weight& weight, Fp8Sums sums,
              const GemmExtras& extras, const Fp8Rows& rows);

}  // namespace qlora
