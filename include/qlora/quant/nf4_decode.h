// The inner loop of NF4 decoding: 32 code bytes -> 64 values through a table of the block's 16 results.
#pragma once

#include <array>
#include <cstdint>

namespace qlora {

template <typename T>  // float, or std::uint16_t for the bits of BF16 and F16
using Nf4Table = std::array<T, 16>;

// codes [32] -> out [64], with vector instructions where the build has them.
void nf4_decode_block(const std::uint8_t* codes, const Nf4Table<float>& table, float* out);
void nf4_decode_block(const std::uint8_t* codes, const Nf4Table<std::uint16_t>& table, std::uint16_t* out);

// The same in plain C++; also what decodes the ends of a range: elements [begin, end) of the block, into out[0...].
template <typename T>
void nf4_decode_portable(const std::uint8_t* codes, const Nf4Table<T>& table, std::int64_t begin, std::int64_t end,
                         T* out) {
  for (std::int64_t i = begin; i < end; ++i) {
    const int shift = i % 2 == 0 ? 4 : 0;
    *out++ = table[(codes[i / 2] >> shift) & 15];
  }
}

}  // namespace qlora
