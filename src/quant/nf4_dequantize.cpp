// Decoding of NF4 tensors. A block has only 16 different results: they are computed once, and the codes pick among
// them.
#include <algorithm>
#include <array>

#include <fmt/format.h>

#ifdef __F16C__
#include <immintrin.h>
#endif

#include "qlora/core/error.h"
#include "qlora/core/float16.h"
#include "qlora/core/parallel.h"
#include "qlora/quant/nf4.h"
#include "qlora/quant/nf4_arithmetic.h"
#include "qlora/quant/nf4_decode.h"

namespace qlora {
namespace {

Nf4Table<float> fp32_table(float absmax) {
  Nf4Table<float> table;
  for (std::size_t q = 0; q < table.size(); ++q) table[q] = nf4_multiply(kNf4Code[q], absmax);
  return table;
}

Nf4Table<std::uint16_t> bf16_table(float absmax) {
  const Nf4Table<float> exact = fp32_table(absmax);
  Nf4Table<std::uint16_t> table;
  for (std::size_t q = 0; q < table.size(); ++q) table[q] = float_to_bf16(exact[q]);
  return table;
}

Nf4Table<std::uint16_t> fp16_table(float absmax) {
  const Nf4Table<float> exact = fp32_table(absmax);
  Nf4Table<std::uint16_t> table;
#ifdef __F16C__
  for (std::size_t q = 0; q < table.size(); q += 8) {
    const __m128i rounded = _mm256_cvtps_ph(_mm256_loadu_ps(exact.data() + q), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(table.data() + q), rounded);
  }
#else
  for (std::size_t q = 0; q < table.size(); ++q) table[q] = float_to_fp16(exact[q]);
#endif
  return table;
}

// Elements [begin, end) of the tensor to out[0...]; whole blocks through the fast path, the ends through the plain one.
template <typename T, typename MakeTable>
void decode_range(const Nf4View& view, std::int64_t begin, std::int64_t end, MakeTable make_table, T* out) {
  constexpr std::int64_t kChunk = 64;
  std::array<float, kChunk> absmax;
  const std::int64_t last = nf4_blocks(end);
  for (std::int64_t chunk = begin / kNf4Block; chunk < last; chunk += kChunk) {
    const std::int64_t blocks = std::min(kChunk, last - chunk);
    nf4_absmax(view, chunk, blocks, absmax.data());
    for (std::int64_t i = 0; i < blocks; ++i) {
      const std::int64_t start = (chunk + i) * kNf4Block;
      const std::uint8_t* codes = view.codes + start / 2;
      const auto table = make_table(absmax[static_cast<std::size_t>(i)]);
      const std::int64_t from = std::max(begin, start) - start;
      const std::int64_t to = std::min(end, start + kNf4Block) - start;
      if (to - from == kNf4Block) {
        nf4_decode_block(codes, table, out);
      } else {
        nf4_decode_portable(codes, table, from, to, out);
      }
      out += to - from;
    }
  }
}

template <typename T, typename MakeTable>
void decode_parallel(const Nf4View& view, std::int64_t begin, std::int64_t count, MakeTable make_table, void* out) {
  constexpr std::int64_t kGrain = 64 * 1024;
  auto* to = static_cast<T*>(out);
  // Ranges start at multiples of the block, so that only the first and the last block can be partial.
  const std::int64_t skew = begin % kNf4Block;
  parallel_for(skew + count, kGrain, [&](std::int64_t first, std::int64_t last) {
    const std::int64_t from = std::max(first, skew);
    decode_range(view, begin - skew + from, begin - skew + last, make_table, to + (from - skew));
  });
}

}  // namespace

void nf4_absmax(const Nf4View& view, std::int64_t begin, std::int64_t count, float* out) {
  if (!view.nested()) {
    std::copy_n(view.absmax + begin, count, out);
    return;
  }
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t block = begin + i;
    const float scale = view.nested_absmax[block / kNf4NestedBlock];
    const float centred = nf4_multiply(view.nested_map[view.absmax_codes[block]], scale);
    out[i] = centred + view.nested_offset;
  }
}

void nf4_dequantize(const Nf4View& view, std::int64_t begin, std::int64_t count, ElementType type, void* out) {
  if (begin < 0 || count < 0 || count > view.count - begin) {
    throw RuntimeFailure(fmt::format("elements {} to {} of an NF4 tensor of {} elements do not exist", begin,
                                     begin + count, view.count));
  }
  switch (type) {
    case ElementType::kF32:
      return decode_parallel<float>(view, begin, count, fp32_table, out);
    case ElementType::kBF16:
      return decode_parallel<std::uint16_t>(view, begin, count, bf16_table, out);
    case ElementType::kF16:
      return decode_parallel<std::uint16_t>(view, begin, count, fp16_table, out);
    default:
      throw UsageError(fmt::format("NF4 weights decode to F32, BF16 or F16, not to {}", element_name(type)));
  }
}

void nf4_dequantize(const Nf4View& view, ElementType type, void* out) {
  nf4_dequantize(view, 0, view.count, type, out);
}

}  // namespace qlora
