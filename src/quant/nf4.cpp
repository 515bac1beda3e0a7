// Quantization to NF4.
#include "qlora/quant/nf4.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/core/float16.h"
#include "qlora/core/parallel.h"
#include "qlora/quant/dynamic_map.h"
#include "qlora/quant/nf4_arithmetic.h"

namespace qlora {
namespace {

constexpr std::uint32_t kMagnitude = 0x7fffffffU;
constexpr std::uint32_t kInfinity = 0x7f800000U;
constexpr std::uint32_t kSmallestNormalBits = 0x00800000U;

using Block = std::array<float, kNf4Block>;

template <typename T, typename Convert>
void load_values(const std::byte* values, std::int64_t count, Block& block, Convert convert) {
  std::array<T, kNf4Block> raw{};  // a mapped file promises no alignment
  std::memcpy(raw.data(), values, static_cast<std::size_t>(count) * sizeof(T));
  for (std::size_t i = 0; i < raw.size(); ++i) block[i] = convert(raw[i]);
}

// Elements past `count` become 0.
void load_block(const void* values, ElementType type, std::int64_t begin, std::int64_t count, Block& block) {
  const auto* from = static_cast<const std::byte*>(values) + begin * static_cast<std::int64_t>(element_size(type));
  switch (type) {
    case ElementType::kBF16:
      return load_values<std::uint16_t>(from, count, block, bf16_to_float);
    case ElementType::kF16:
      return load_values<std::uint16_t>(from, count, block, fp16_to_float);
    default:
      return load_values<float>(from, count, block, [](float value) { return value; });
  }
}

// Flushes subnormals to zero and returns the bits of the largest magnitude; kInfinity or more: not all are finite.
std::uint32_t flush_and_absmax(Block& block) {
  std::uint32_t top = 0;
  for (float& value : block) {
    const std::uint32_t magnitude = std::bit_cast<std::uint32_t>(value) & kMagnitude;
    top = std::max(top, magnitude);
    value = magnitude < kSmallestNormalBits ? 0.0F : value;
  }
  return top < kSmallestNormalBits ? 0U : top;
}

void encode_block(const Block& block, float absmax, std::array<std::int32_t, kNf4Block>& q) {
  q.fill(0);
  const float scale = nf4_reciprocal(absmax);
  Block scaled;
  for (std::size_t i = 0; i < block.size(); ++i) scaled[i] = block[i] * scale;
  for (const float threshold : kNf4Thresholds) {
    for (std::size_t i = 0; i < block.size(); ++i) q[i] += scaled[i] > threshold ? 1 : 0;
  }
}

// The free nibble of an odd count holds the code of the zero that fills the block up.
void pack_block(const std::array<std::int32_t, kNf4Block>& q, std::int64_t count, std::uint8_t* codes) {
  for (std::int64_t i = 0; i < nf4_code_bytes(count); ++i) {
    const auto even = static_cast<std::size_t>(2 * i);
    codes[i] = static_cast<std::uint8_t>(q[even] << 4 | q[even + 1]);
  }
}

std::int64_t first_bad(const Block& block) {
  const auto bad = std::find_if(block.begin(), block.end(), [](float value) { return !std::isfinite(value); });
  return bad - block.begin();
}

}  // namespace

void nf4_refuse(std::string_view name, std::int64_t index, float value) {
  throw DataError(fmt::format("tensor '{}': holds NaN or Inf: the value at flat index {} is {}", name, index,
                              std::isnan(value) ? "NaN" : "infinite"));
}

void nf4_quantize(const void* values, ElementType type, std::int64_t count, std::uint8_t* codes, float* absmax,
                  std::string_view name) {
  if (type != ElementType::kBF16 && type != ElementType::kF16 && type != ElementType::kF32) {
    throw DataError(
        fmt::format("{}: weights of type {} cannot be quantized; BF16, F16 and F32 can", name, element_name(type)));
  }
  constexpr std::int64_t kGrain = 256;
  parallel_for(nf4_blocks(count), kGrain, [&](std::int64_t first, std::int64_t last) {
    Block block;
    std::array<std::int32_t, kNf4Block> q;
    for (std::int64_t b = first; b < last; ++b) {
      const std::int64_t begin = b * kNf4Block;
      const std::int64_t inside = std::min(kNf4Block, count - begin);
      load_block(values, type, begin, inside, block);
      const std::uint32_t top = flush_and_absmax(block);
      if (top >= kInfinity) {
        const std::int64_t at = first_bad(block);
        nf4_refuse(name, begin + at, block[static_cast<std::size_t>(at)]);
      }
      absmax[b] = std::bit_cast<float>(top);
      encode_block(block, absmax[b], q);
      pack_block(q, inside, codes + begin / 2);
    }
  });
}

Nf4View Nf4Tensor::view() const {
  Nf4View view;
  view.count = count();
  view.codes = codes.data();
  if (!nested()) {
    view.absmax = absmax.data();
    return view;
  }
  view.absmax_codes = absmax_codes.data();
  view.nested_absmax = nested_absmax.data();
  view.nested_map = nested_map.data();
  view.nested_offset = nested_offset;
  return view;
}

Nf4Tensor nf4_quantize(const HostTensor& tensor, bool nested, std::string_view name) {
  const std::int64_t count = tensor.count();
  const auto blocks = static_cast<std::size_t>(nf4_blocks(count));
  Nf4Tensor result;
  result.shape = tensor.shape;
  result.dtype = tensor.type;
  result.codes.resize(static_cast<std::size_t>(nf4_code_bytes(count)));
  result.absmax.resize(blocks);
  nf4_quantize(tensor.bytes.data(), tensor.type, count, result.codes.data(), result.absmax.data(), name);
  if (!nested) return result;
  result.absmax_codes.resize(blocks);
  result.nested_absmax.resize(static_cast<std::size_t>(nf4_nested_blocks(nf4_blocks(count))));
  result.nested_offset = nf4_nest_absmax(result.absmax.data(), nf4_blocks(count), result.absmax_codes.data(),
                                         result.nested_absmax.data(), name);
  result.nested_map.assign(signed_dynamic_map().begin(), signed_dynamic_map().end());
  result.absmax = {};
  return result;
}

}  // namespace qlora
