#include "qlora/quant/nf4_decode.h"

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace qlora {

#ifdef __AVX2__
namespace {

// Both nibbles of 32 code bytes, one a byte.
struct Nibbles {
  __m256i even;  // elements 0, 2, 4, ...
  __m256i odd;
};

Nibbles load_nibbles(const std::uint8_t* codes) {
  const __m256i mask = _mm256_set1_epi8(15);
  const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
  return {_mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask), _mm256_and_si256(bytes, mask)};
}

void store(std::uint16_t* out, __m256i value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), value);
}

// The low and the high bytes of the 16 entries, each in both halves of a register.
struct BytePlanes {
  __m256i low;
  __m256i high;
};

BytePlanes byte_planes(const Nf4Table<std::uint16_t>& table) {
  const __m128i first = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table.data()));
  const __m128i second = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table.data() + 8));
  const __m128i mask = _mm_set1_epi16(255);
  const __m128i low = _mm_packus_epi16(_mm_and_si128(first, mask), _mm_and_si128(second, mask));
  const __m128i high = _mm_packus_epi16(_mm_srli_epi16(first, 8), _mm_srli_epi16(second, 8));
  return {_mm256_broadcastsi128_si256(low), _mm256_broadcastsi128_si256(high)};
}

}  // namespace

// Looks up low and high bytes apart, then interleaves bytes to values and even to odd elements.
void nf4_decode_block(const std::uint8_t* codes, const Nf4Table<std::uint16_t>& table, std::uint16_t* out) {
  const BytePlanes planes = byte_planes(table);
  const Nibbles nibbles = load_nibbles(codes);
  const __m256i even_l = _mm256_shuffle_epi8(planes.low, nibbles.even);
  const __m256i even_h = _mm256_shuffle_epi8(planes.high, nibbles.even);
  const __m256i odd_l = _mm256_shuffle_epi8(planes.low, nibbles.odd);
  const __m256i odd_h = _mm256_shuffle_epi8(planes.high, nibbles.odd);
  const __m256i even_0 = _mm256_unpacklo_epi8(even_l, even_h);
  const __m256i even_1 = _mm256_unpackhi_epi8(even_l, even_h);
  const __m256i odd_0 = _mm256_unpacklo_epi8(odd_l, odd_h);
  const __m256i odd_1 = _mm256_unpackhi_epi8(odd_l, odd_h);
  const __m256i a = _mm256_unpacklo_epi16(even_0, odd_0);  // elements 0..7   | 32..39
  const __m256i b = _mm256_unpackhi_epi16(even_0, odd_0);  // 8..15  | 40..47
  const __m256i c = _mm256_unpacklo_epi16(even_1, odd_1);  // 16..23 | 48..55
  const __m256i d = _mm256_unpackhi_epi16(even_1, odd_1);  // 24..31 | 56..63
  store(out, _mm256_permute2x128_si256(a, b, 0x20));
  store(out + 16, _mm256_permute2x128_si256(c, d, 0x20));
  store(out + 32, _mm256_permute2x128_si256(a, b, 0x31));
  store(out + 48, _mm256_permute2x128_si256(c, d, 0x31));
}

// Eight lookups at a time in each half of the table; the code's top bit chooses between them.
void nf4_decode_block(const std::uint8_t* codes, const Nf4Table<float>& table, float* out) {
  const __m256 lower = _mm256_loadu_ps(table.data());
  const __m256 upper = _mm256_loadu_ps(table.data() + 8);
  const Nibbles nibbles = load_nibbles(codes);
  const auto eight = [&](__m128i q, float* to) {
    const __m256i index = _mm256_cvtepu8_epi32(q);
    const __m256 chooser = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));  // bit 3 becomes the sign
    const __m256 value =
        _mm256_blendv_ps(_mm256_permutevar8x32_ps(lower, index), _mm256_permutevar8x32_ps(upper, index), chooser);
    _mm256_storeu_ps(to, value);
  };
  const auto sixteen = [&](__m128i q, float* to) {
    eight(q, to);
    eight(_mm_srli_si128(q, 8), to + 8);
  };
  const __m256i low = _mm256_unpacklo_epi8(nibbles.even, nibbles.odd);   // elements 0..15  | 32..47
  const __m256i high = _mm256_unpackhi_epi8(nibbles.even, nibbles.odd);  // 16..31 | 48..63
  sixteen(_mm256_castsi256_si128(low), out);
  sixteen(_mm256_castsi256_si128(high), out + 16);
  sixteen(_mm256_extracti128_si256(low, 1), out + 32);
  sixteen(_mm256_extracti128_si256(high, 1), out + 48);
}

#else

void nf4_decode_block(const std::uint8_t* codes, const Nf4Table<std::uint16_t>& table, std::uint16_t* out) {
  nf4_decode_portable(codes, table, 0, 64, out);
}

void nf4_decode_block(const std::uint8_t* codes, const Nf4Table<float>& table, float* out) {
  nf4_decode_portable(codes, table, 0, 64, out);
}

#endif

}  // namespace qlora
