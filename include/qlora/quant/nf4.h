// NF4 as bitsandbytes has it on the GPU, to the bit, on the CPU: the reference of the kernels. No torch: raw pointers.
//
// Weights are flattened row-major and cut into blocks of 64 (rows are not respected). Block b: absmax[b] = max |w|,
// code q = how many thresholds w * (1 / absmax[b]) exceeds; two codes a byte, the first in the high nibble. Decoded:
// w' = T(kNf4Code[q] * absmax[b]): one fp32 product (subnormal: 0), one rounding to T.
// Doubly quantized ("nested"): offset = mean(absmax); absmax - offset is quantized in blocks of 256 with a signed
// dynamic 8-bit map; decoded as map[q8] * nested_absmax[b / 256], then + offset, two roundings.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "qlora/core/host_tensor.h"

namespace qlora {

inline constexpr std::int64_t kNf4Block = 64;
inline constexpr std::int64_t kNf4NestedBlock = 256;

// Quantiles of a standard normal, scaled to [-1, 1] (Dettmers et al. 2023, QLoRA, appendix E).
inline constexpr std::array<float, 16> kNf4Code = {
    -1.0F,        -0.69619280F, -0.52507305F, -0.39491749F, -0.28444138F, -0.18477343F, -0.091050036F, 0.0F,
    0.079580300F, 0.16093020F,  0.24611230F,  0.33791524F,  0.44070983F,  0.56261700F,  0.72295684F,   1.0F};

// Between neighbours of kNf4Code; a value on a threshold takes the lower code. In hex: four of them are one ulp away
// from the fp32 midpoint.
inline constexpr std::array<float, 15> kNf4Thresholds = {
    -0x1.b239b2p-1F, -0x1.38a4e0p-1F, -0x1.d70900p-2F, -0x1.5bd4ecp-2F, -0x1.e079d8p-3F,
    -0x1.1a7178p-3F, -0x1.74f0e2p-5F, 0x1.45f5fep-5F,  0x1.ec90c6p-4F,  0x1.a0cfc0p-3F,
    0x1.2b05a8p-2F,  0x1.8ea7f2p-2F,  0x1.00da06p-1F,  0x1.491b5ep-1F,  0x1.b913b2p-1F};

// The signed dynamic 8-bit map, ascending: for i in 0..6 the midpoints of linspace(0.1, 1, 2^i + 1) times 10^(i-6),
// with both signs, and 0 and 1.
const std::array<float, 256>& nf4_nested_map();

constexpr std::int64_t nf4_code_bytes(std::int64_t count) {
  return (count + 1) / 2;
}
constexpr std::int64_t nf4_blocks(std::int64_t count) {
  return (count + kNf4Block - 1) / kNf4Block;
}
constexpr std::int64_t nf4_nested_blocks(std::int64_t blocks) {
  return (blocks + kNf4NestedBlock - 1) / kNf4NestedBlock;
}

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
