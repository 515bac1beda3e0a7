// Quantization to NF4 and of its scales.
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

namespace qlora {
namespace {

constexpr std::uint32_t kMagnitude = 0x7fffffffU;
constexpr std::uint32_t kInfinity = 0x7f800000U;
constexpr std::uint32_t kSmallestNormal = 0x00800000U;
constexpr float kSmallestNormalValue = 0x1p-126F;
constexpr float kLargestInvertible = 0x1p126F;  // above, the reciprocal is subnormal, which the GPU flushes to 0
constexpr std::uint8_t kPadCode = 7;

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
    value = magnitude < kSmallestNormal ? 0.0F : value;
  }
  return top < kSmallestNormal ? 0U : top;
}

// As the GPU has it: a subnormal operand or result is 0. 1 / 0 is Inf, which makes NaN of every (zero) element of the
// block, and NaN exceeds no threshold.
float flushed_reciprocal(float absmax) {
  if (absmax < kSmallestNormalValue) return std::numeric_limits<float>::infinity();
  return absmax > kLargestInvertible ? 0.0F : 1.0F / absmax;
}

float flushed(float value) {
  return std::fabs(value) < kSmallestNormalValue ? 0.0F : value;
}

void encode_block(const Block& block, float absmax, std::array<std::int32_t, kNf4Block>& q) {
  q.fill(0);
  const float scale = flushed_reciprocal(absmax);
  Block scaled;
  for (std::size_t i = 0; i < block.size(); ++i) scaled[i] = block[i] * scale;
  for (const float threshold : kNf4Thresholds) {
    for (std::size_t i = 0; i < block.size(); ++i) q[i] += scaled[i] > threshold ? 1 : 0;
  }
}

void pack_block(const std::array<std::int32_t, kNf4Block>& q, std::int64_t count, std::uint8_t* codes) {
  for (std::int64_t i = 0; i + 1 < count; i += 2) {
    codes[i / 2] = static_cast<std::uint8_t>(q[static_cast<std::size_t>(i)] << 4 | q[static_cast<std::size_t>(i + 1)]);
  }
  if (count % 2 != 0) {
    codes[count / 2] = static_cast<std::uint8_t>(q[static_cast<std::size_t>(count - 1)] << 4 | kPadCode);
  }
}

std::int64_t first_bad(const Block& block) {
  const auto bad = std::find_if(block.begin(), block.end(), [](float value) { return !std::isfinite(value); });
  return bad - block.begin();
}

[[noreturn]] void refuse_value(std::string_view name, std::int64_t index, float value) {
  throw DataError(fmt::format("{}: the value at flat index {} is {}; a weight that is to be quantized must be finite",
                              name, index, std::isnan(value) ? "NaN" : "infinite"));
}

// The GPU's search: binary from the middle of the map, then the nearer of two neighbours; a tie and NaN stay.
std::uint8_t nested_code(float value, const std::array<float, 256>& map) {
  int pivot = 127;
  int upper = 255;
  int lower = 0;
  for (int step = 64; step > 0; step /= 2) {
    const bool above = value > map[static_cast<std::size_t>(pivot)];
    (above ? lower : upper) = pivot;
    pivot += above ? step : -step;
  }
  const float here = map[static_cast<std::size_t>(pivot)];
  if (value > here) {
    const float middle = (map[static_cast<std::size_t>(upper)] + here) * 0.5F;
    return static_cast<std::uint8_t>(value > middle ? upper : pivot);
  }
  const float middle = (map[static_cast<std::size_t>(lower)] + here) * 0.5F;
  return static_cast<std::uint8_t>(value < middle ? lower : pivot);
}

std::array<float, 256> make_nested_map() {
  std::array<float, 256> map{};
  std::size_t filled = 0;
  for (int i = 0; i < 7; ++i) {
    const int intervals = 1 << i;
    // torch.linspace in fp32: from the nearer end.
    const float step = (1.0F - 0.1F) / static_cast<float>(intervals);
    const auto edge = [&](int k) {
      return k < (intervals + 1) / 2 ? 0.1F + step * static_cast<float>(k)
                                     : 1.0F - step * static_cast<float>(intervals - k);
    };
    const auto power = static_cast<float>(std::pow(10.0, i - 6));
    for (int k = 0; k < intervals; ++k) {
      const float value = (edge(k) + edge(k + 1)) / 2.0F * power;
      map[filled++] = value;
      map[filled++] = -value;
    }
  }
  map[filled++] = 0.0F;
  map[filled++] = 1.0F;
  std::sort(map.begin(), map.end());
  return map;
}

}  // namespace

const std::array<float, 256>& nf4_nested_map() {
  static const std::array<float, 256> map = make_nested_map();
  return map;
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
        refuse_value(name, begin + at, block[static_cast<std::size_t>(at)]);
      }
      absmax[b] = std::bit_cast<float>(top);
      encode_block(block, absmax[b], q);
      pack_block(q, inside, codes + begin / 2);
    }
  });
}

float nf4_nest_absmax(const float* absmax, std::int64_t blocks, std::uint8_t* absmax_codes, float* nested_absmax) {
  if (blocks == 0) return 0.0F;
  double sum = 0.0;
  for (std::int64_t b = 0; b < blocks; ++b) sum += static_cast<double>(absmax[b]);
  const auto offset = static_cast<float>(sum / static_cast<double>(blocks));

  const std::array<float, 256>& map = nf4_nested_map();
  parallel_for(nf4_nested_blocks(blocks), 16, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t n = first; n < last; ++n) {
      const std::int64_t begin = n * kNf4NestedBlock;
      const std::int64_t end = std::min(blocks, begin + kNf4NestedBlock);
      float top = 0.0F;
      for (std::int64_t b = begin; b < end; ++b) top = std::max(top, std::fabs(flushed(absmax[b] - offset)));
      nested_absmax[n] = top;
      const float scale = flushed_reciprocal(top);  // Inf where all are equal: the search sends NaN to code 0
      for (std::int64_t b = begin; b < end; ++b) {
        absmax_codes[b] = nested_code(flushed(absmax[b] - offset) * scale, map);
      }
    }
  });
  return offset;
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
  result.nested_offset =
      nf4_nest_absmax(result.absmax.data(), nf4_blocks(count), result.absmax_codes.data(), result.nested_absmax.data());
  result.nested_map.assign(nf4_nested_map().begin(), nf4_nested_map().end());
  result.absmax = {};
  return result;
}

}  // namespace qlora
