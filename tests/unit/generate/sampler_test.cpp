// The next token: the likeliest, or drawn by rules that a few logits show.
#include "qlora/generate/sampler.h"

#include <cmath>
#include <set>

#include <gtest/gtest.h>

namespace qlora {
namespace {

using Logits = std::vector<float>;

GenerateOptions sampled(double temperature = 1.0) {
  GenerateOptions options;
  options.temperature = temperature;
  options.top_k = 0;
  return options;
}

std::int32_t draw(const Sampler& sampler, Logits logits, std::uint64_t row = 0, std::uint64_t position = 0,
                  const std::vector<std::int32_t>& seen = {}) {
  return sampler.next(logits, seen, row, position);
}

std::set<std::int32_t> drawn(const GenerateOptions& options, const Logits& logits) {
  std::set<std::int32_t> tokens;
  for (std::uint64_t i = 0; i < 2000; ++i) tokens.insert(draw(Sampler(options, 1), logits, 0, i));
  return tokens;
}

Logits of_probabilities(const std::vector<double>& p) {
  Logits logits;
  for (const double value : p) logits.push_back(static_cast<float>(std::log(value)));
  return logits;
}

TEST(Sampler, GreedyTakesTheFirstOfTheLikeliest) {
  GenerateOptions options;
  EXPECT_EQ(draw(Sampler(options, 1), {0.0F, 3.0F, -1.0F, 3.0F}), 1);
}

TEST(Sampler, RulesCutTheUnlikely) {
  const Logits logits = of_probabilities({0.1, 0.5, 0.15, 0.25});
  EXPECT_EQ(drawn(sampled(), logits), (std::set<std::int32_t>{0, 1, 2, 3}));
  GenerateOptions options = sampled();
  options.top_k = 2;
  EXPECT_EQ(drawn(options, logits), (std::set<std::int32_t>{1, 3}));
  options = sampled();
  options.top_p = 0.7;  // 0.5 is not enough: the token that crosses the line stays
  EXPECT_EQ(drawn(options, logits), (std::set<std::int32_t>{1, 3}));
  options.top_p = 1e-9;
  EXPECT_EQ(drawn(options, logits), (std::set<std::int32_t>{1})) << "one always stays";
  options = sampled();
  options.min_p = 0.28;  // of 0.5
  EXPECT_EQ(drawn(options, logits), (std::set<std::int32_t>{1, 2, 3}));
}

TEST(Sampler, RepetitionPenaltyMovesBothSignsDown) {
  GenerateOptions options;
  options.repetition_penalty = 2.0;
  EXPECT_EQ(draw(Sampler(options, 1), {1.0F, 1.5F}, 0, 0, {1}), 0);
  EXPECT_EQ(draw(Sampler(options, 1), {-1.0F, -0.6F}, 0, 0, {1, 1}), 0) << "once, however often it was seen";
  EXPECT_EQ(draw(Sampler(options, 1), {1.0F, 2.5F}, 0, 0, {1, 1, 1}), 1);
}

TEST(Sampler, NumbersFollowSeedRowAndPosition) {
  const Logits flat(50, 0.0F);
  const auto sequence = [&](std::uint64_t seed, std::uint64_t row) {
    std::vector<std::int32_t> tokens;
    for (std::uint64_t i = 0; i < 20; ++i) tokens.push_back(draw(Sampler(sampled(), seed), flat, row, i));
    return tokens;
  };
  EXPECT_EQ(sequence(1, 0), sequence(1, 0));
  EXPECT_NE(sequence(1, 0), sequence(2, 0));
  EXPECT_NE(sequence(1, 0), sequence(1, 1));
}

TEST(Sampler, TemperatureSharpens) {
  const Logits logits = of_probabilities({0.6, 0.4});
  const auto share = [&](double temperature) {
    int first = 0;
    for (std::uint64_t i = 0; i < 4000; ++i) first += draw(Sampler(sampled(temperature), 3), logits, 0, i) == 0 ? 1 : 0;
    return first / 4000.0;
  };
  EXPECT_NEAR(share(1.0), 0.6, 0.03);
  EXPECT_NEAR(share(0.5), 0.36 / 0.52, 0.03);
}

}  // namespace
}  // namespace qlora
