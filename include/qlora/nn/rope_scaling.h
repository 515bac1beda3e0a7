// How a model stretches RoPE's frequencies base^(-2i/D) beyond the lengths that it was first trained on: the
// "rope_scaling" of config.json. Formulas are those of transformers' modeling_rope_utils.
#pragma once

#include <cstdint>
#include <vector>

namespace qlora {

struct RopeScaling {
  enum class Kind {
    kNone,
    kLinear,    // all frequencies divided by `factor`
    kDynamic,   // the base grows with a row that is longer than original_max_positions (NTK)
    kLlama3,    // long wavelengths divided by `factor`, short ones kept, those between blended
    kYarn,      // likewise, blended over dimensions (Peng et al. 2023)
    kLongrope,  // each frequency divided by a factor of its own, another for longer rows (Ding et al. 2024)
  };
  Kind kind = Kind::kNone;
  double factor = 1.0;
  double low_freq_factor = 1.0;                     // llama3
  double high_freq_factor = 4.0;                    // llama3
  double original_max_positions = 8192;             // all but linear
  double beta_fast = 32.0;                          // yarn: rotations above which a dimension is kept
  double beta_slow = 1.0;                           // yarn: rotations below which it is divided
  bool truncate = true;                             // yarn: the bounds of the blend are whole dimensions
  std::vector<double> short_factors, long_factors;  // longrope, [D / 2] each
  double attention_factor = 1.0;                    // yarn, longrope: multiplies cos and sin

  // Whether rows of more than original_max_positions tokens have frequencies of their own.
  bool varies_with_length() const { return kind == Kind::kDynamic || kind == Kind::kLongrope; }
};

// [dimensions / 2], for a row of `length` tokens.
std::vector<float> rope_frequencies(std::int64_t dimensions, double base, const RopeScaling& scaling,
                                    std::int64_t length);

}  // namespace qlora
