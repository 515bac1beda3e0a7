// NF4 as bitsandbytes has it on the GPU, to the bit, on the CPU: the reference of the kernels. No torch: raw pointers.
//
// Weights are flattened row-major and cut into blocks of 64 (rows are not respected). Block b: absmax[b] = max |w|,
// code q = how many thresholds w * (1 / absmax[b]) exceeds; two codes a byte, the first in the high nibble. Decoded:
// w' = T(kNf4Code[q] * absmax[b]): one fp32 product (subnormal: 0), one rounding to T.
// Doubly quantized ("nested"): offset = mean(absmax); absmax - offset is quantized in blocks of 256 with a signed
// dynamic 8-bit map; decoded as map[q8] * nested_absmax[b / 256], then + offset, two roundings.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "qlora/core/host_tensor.h"
#include "qlora/quant/nf4_arithmetic.h"

namespace qlora {

// values: `count` of type BF16, F16 or F32 -> codes [nf4_code_bytes], absmax [nf4_blocks] fp32.
// As on the GPU, subnormal values, products and reciprocals count as zero: a block of zeros takes code 0, one whose
// absmax is above 2^126 code 7. The free nibble of an odd count is 7, or 0 where the last block is all zero. BF16 and
// F16 give the GPU's bytes; for F32 the GPU takes an approximate reciprocal, this function the exact one: 1 code in
// about 17 million differs. Throws DataError, naming `name` and the index, for NaN, Inf and other types. Runs on all
// cores.
void nf4_quantize(const void* values, ElementType type, std::int64_t count, std::uint8_t* codes, float* absmax,
                  std::string_view name = "weight");

// absmax [blocks] -> absmax_codes [blocks], nested_absmax [nf4_nested_blocks(blocks)]; returns the offset: the mean,
// summed in fp32 in the order in which torch sums on a GPU of 132 multiprocessors (H100, H200; the order is the same on
// all GPUs up to 130,560 blocks), so that the bytes are the GPU's. Throws DataError where the sum overflows.
float nf4_nest_absmax(const float* absmax, std::int64_t blocks, std::uint8_t* absmax_codes, float* nested_absmax,
                      std::string_view name = "weight");

// What both throw.
[[noreturn]] void nf4_refuse(std::string_view name, std::int64_t index, float value);
[[noreturn]] void nf4_refuse_nesting(std::string_view name);

// What decoding reads; owns nothing. absmax is set, or the four members below it.
struct Nf4View {
  std::int64_t count = 0;
  const std::uint8_t* codes = nullptr;         // [nf4_code_bytes(count)]
  const float* absmax = nullptr;               // [nf4_blocks(count)]
  const std::uint8_t* absmax_codes = nullptr;  // [nf4_blocks(count)]
  const float* nested_absmax = nullptr;        // [nf4_nested_blocks(blocks)]
  const float* nested_map = nullptr;           // [256]
  float nested_offset = 0.0F;

  bool nested() const { return absmax == nullptr; }
};

// Elements [begin, begin + count) into `out`, of type F32, BF16 or F16 (else UsageError). Runs on all cores.
void nf4_dequantize(const Nf4View& view, std::int64_t begin, std::int64_t count, ElementType type, void* out);
// All elements.
void nf4_dequantize(const Nf4View& view, ElementType type, void* out);
// The absmax of blocks [begin, begin + count), un-nested.
void nf4_absmax(const Nf4View& view, std::int64_t begin, std::int64_t count, float* out);

// A quantized tensor that owns its parts.
struct Nf4Tensor {
  Shape shape;
  ElementType dtype = ElementType::kBF16;  // of the weights it was made from, which decoding gives back by default
  std::vector<std::uint8_t> codes;
  std::vector<float> absmax;  // empty where nested
  std::vector<std::uint8_t> absmax_codes;
  std::vector<float> nested_absmax;
  std::vector<float> nested_map;
  float nested_offset = 0.0F;

  bool nested() const { return !absmax_codes.empty(); }
  std::int64_t count() const { return element_count(shape).value_or(0); }
  Nf4View view() const;  // valid while this lives and is not moved from
};

// Quantizes a tensor of type BF16, F16 or F32; `nested` doubly. Throws as nf4_quantize.
Nf4Tensor nf4_quantize(const HostTensor& tensor, bool nested, std::string_view name = "weight");

}  // namespace qlora
