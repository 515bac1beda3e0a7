// Random order that is the same on every machine: the standard fixes mt19937_64 but not its distributions.
#pragma once

#include <cstdint>
#include <random>
#include <utility>
#include <vector>

namespace qlora {

// A generator for one purpose: streams of different (seed, stream) are independent.
inline std::mt19937_64 seeded_generator(std::uint64_t seed, std::uint64_t stream) {
  std::seed_seq sequence{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32),
                         static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)};
  return std::mt19937_64(sequence);
}

// Uniform in [0, bound), bound > 0, without bias.
inline std::uint64_t random_below(std::mt19937_64& generator, std::uint64_t bound) {
  const std::uint64_t limit = std::mt19937_64::max() - std::mt19937_64::max() % bound;
  for (;;) {
    const std::uint64_t value = generator();
    if (value < limit) return value % bound;
  }
}

// Fisher-Yates.
template <class T>
void shuffle_in_place(std::vector<T>& values, std::mt19937_64& generator) {
  for (std::size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[random_below(generator, i)]);
}

}  // namespace qlora
