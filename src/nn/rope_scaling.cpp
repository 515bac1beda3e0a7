#include "qlora/nn/rope_scaling.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace qlora {
namespace {

float llama3_frequency(float frequency, const RopeScaling& s) {
  const double wavelength = 2.0 * std::numbers::pi / frequency;
  if (wavelength > s.original_max_positions / s.low_freq_factor) return static_cast<float>(frequency / s.factor);
  if (wavelength < s.original_max_positions / s.high_freq_factor) return frequency;
  const double smooth =
      (s.original_max_positions / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
  return static_cast<float>((1.0 - smooth) * frequency / s.factor + smooth * frequency);
}

// The dimension that turns `rotations` times within the original length.
double yarn_dimension(double rotations, double dimensions, double base, const RopeScaling& s) {
  return dimensions * std::log(s.original_max_positions / (rotations * 2.0 * std::numbers::pi)) /
         (2.0 * std::log(base));
}

// How much of each frequency is divided: 0 up to one dimension, 1 from another on, a ramp between.
std::vector<float> yarn_ramp(std::int64_t dimensions, double base, const RopeScaling& s) {
  const auto size = static_cast<double>(dimensions);
  double low = yarn_dimension(s.beta_fast, size, base, s);
  double high = yarn_dimension(s.beta_slow, size, base, s);
  if (s.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, size - 1.0);
  if (low == high) high += 0.001;
  std::vector<float> ramp;
  for (std::int64_t i = 0; i < dimensions / 2; ++i) {
    ramp.push_back(static_cast<float>(std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0)));
  }
  return ramp;
}

double dynamic_base(double base, std::int64_t dimensions, const RopeScaling& s, std::int64_t length) {
  const auto size = static_cast<double>(dimensions);
  const double stretch = std::max(1.0, static_cast<double>(length) / s.original_max_positions);
  return base * std::pow(s.factor * stretch - (s.factor - 1.0), size / (size - 2.0));
}

}  // namespace

std::vector<float> rope_frequencies(std::int64_t dimensions, double base, const RopeScaling& s, std::int64_t length) {
  using Kind = RopeScaling::Kind;
  if (s.kind == Kind::kDynamic) base = dynamic_base(base, dimensions, s, length);
  const bool is_long = static_cast<double>(length) > s.original_max_positions;
  const std::vector<double>& factors = is_long ? s.long_factors : s.short_factors;
  const std::vector<float> ramp = s.kind == Kind::kYarn ? yarn_ramp(dimensions, base, s) : std::vector<float>{};
  const auto factor = static_cast<float>(s.factor);
  std::vector<float> frequencies;
  for (std::int64_t i = 0; i < dimensions / 2; ++i) {
    const auto at = static_cast<std::size_t>(i);
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(dimensions);
    const auto wavelength = static_cast<float>(std::pow(static_cast<float>(base), exponent));
    float frequency = 1.0F / wavelength;
    if (s.kind == Kind::kLinear) frequency /= factor;
    if (s.kind == Kind::kLlama3) frequency = llama3_frequency(frequency, s);
    if (s.kind == Kind::kLongrope) frequency = 1.0F / (static_cast<float>(factors[at]) * wavelength);
    if (s.kind == Kind::kYarn) frequency = 1.0F / (factor * wavelength) * ramp[at] + frequency * (1.0F - ramp[at]);
    frequencies.push_back(frequency);
  }
  return frequencies;
}

}  // namespace qlora
