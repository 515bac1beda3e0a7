#include "qlora/generate/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <unordered_set>

#include "qlora/nn/dropout.h"

namespace qlora {
namespace {

void penalize_repetition(std::span<float> logits, std::span<const std::int32_t> seen, double penalty) {
  const auto factor = static_cast<float>(penalty);
  for (const std::int32_t id : std::unordered_set<std::int32_t>(seen.begin(), seen.end())) {
    float& logit = logits[static_cast<std::size_t>(id)];
    logit = logit < 0.0F ? logit * factor : logit / factor;
  }
}

}  // namespace

double sampling_uniform(std::uint64_t seed, std::uint64_t row, std::uint64_t position) {
  const auto bits = philox({static_cast<std::uint32_t>(row), static_cast<std::uint32_t>(row >> 32U),
                            static_cast<std::uint32_t>(position), static_cast<std::uint32_t>(position >> 32U)},
                           {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32U)});
  const std::uint64_t wide = (static_cast<std::uint64_t>(bits[0]) << 32U) | bits[1];
  return static_cast<double>(wide >> 11U) * 0x1p-53;
}

std::int32_t Sampler::next(std::span<float> logits, std::span<const std::int32_t> seen, std::uint64_t row,
                           std::uint64_t position) const {
  if (options_.repetition_penalty != 1.0) penalize_repetition(logits, seen, options_.repetition_penalty);
  if (greedy()) return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  for (float& logit : logits) logit /= static_cast<float>(options_.temperature);
  return draw(logits, row, position);
}

// Candidates in descending order; each rule cuts the list's end. top-p keeps the token that crosses the threshold.
std::int32_t Sampler::draw(std::span<float> logits, std::uint64_t row, std::uint64_t position) const {
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto above = [&](std::int32_t a, std::int32_t b) {
    const float x = logits[static_cast<std::size_t>(a)];
    const float y = logits[static_cast<std::size_t>(b)];
    return x != y ? x > y : a < b;
  };
  std::size_t count = order.size();
  if (options_.top_k > 0) count = std::min(count, static_cast<std::size_t>(options_.top_k));
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(), above);

  const double largest = logits[static_cast<std::size_t>(order[0])];
  std::vector<double> weights;
  for (std::size_t i = 0; i < count; ++i) {
    weights.push_back(std::exp(static_cast<double>(logits[static_cast<std::size_t>(order[i])]) - largest));
  }
  if (options_.top_p < 1.0) {
    const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
    double before = 0.0;
    std::size_t kept = 0;
    while (kept < weights.size() && (kept == 0 || before < options_.top_p * total)) before += weights[kept++];
    weights.resize(kept);
  }
  if (options_.min_p > 0.0) {  // relative to the most likely one, whose weight is 1
    std::size_t kept = 1;
    while (kept < weights.size() && weights[kept] >= options_.min_p) ++kept;
    weights.resize(kept);
  }
  const double mark = sampling_uniform(seed_, row, position) * std::accumulate(weights.begin(), weights.end(), 0.0);
  double passed = 0.0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    passed += weights[i];
    if (mark < passed) return order[i];
  }
  return order[weights.size() - 1];
}

}  // namespace qlora
