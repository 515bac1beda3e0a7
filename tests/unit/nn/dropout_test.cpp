// Philox against its published vectors; masks that depend on the row's place alone.
#include "qlora/nn/dropout.h"

#include <cmath>
#include <numeric>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace qlora {
namespace {

using Counter = std::array<std::uint32_t, 4>;

// The known answers that Random123 publishes for philox4x32 with 10 rounds, and one of its with 7.
TEST(Philox, KnownAnswers) {
  constexpr std::uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}), (Counter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (Counter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Counter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}, 7), (Counter{0x5f6fb709, 0x0d893f64, 0x4f121f81, 0x4f730a48}));
}

struct Row {
  std::int64_t key, length;
};

Batch batch_of(const std::vector<Row>& rows, std::uint64_t step) {
  Batch batch;
  batch.row_bounds = {0};
  for (const Row& row : rows) {
    batch.row_bounds.push_back(batch.row_bounds.back() + row.length);
    batch.row_keys.push_back(row.key);
  }
  batch.step = step;
  batch.training = true;
  return batch;
}

at::Tensor mask_of(const std::vector<Row>& rows, std::int64_t features, const DropoutKey& key = {7, 3},
                   std::uint64_t step = 5, double p = 0.25, std::int64_t tail = 0) {
  const Batch batch = batch_of(rows, step);
  const at::Tensor x = at::ones({batch.real_tokens() + tail, features}, at::kDouble);
  at::Tensor out = at::empty_like(x);
  apply_dropout(x, out, batch, key, p);
  return out;
}

TEST(Dropout, ARowsMaskDoesNotDependOnItsNeighbours) {
  const at::Tensor together = mask_of({{0, 5}, {1, 9}, {2, 3}}, 10);
  EXPECT_TRUE(together.narrow(0, 0, 5).equal(mask_of({{0, 5}}, 10)));
  EXPECT_TRUE(together.narrow(0, 5, 9).equal(mask_of({{1, 9}}, 10)));
  EXPECT_TRUE(together.narrow(0, 5, 12).equal(mask_of({{1, 9}, {2, 3}}, 10)));
  EXPECT_TRUE(together.narrow(0, 5, 4).equal(mask_of({{1, 4}}, 10))) << "nor on what follows in the row";
  EXPECT_TRUE(together.narrow(1, 0, 7).equal(mask_of({{0, 5}, {1, 9}, {2, 3}}, 7))) << "nor on the width";
}

TEST(Dropout, EachPartOfThePlaceChangesTheMask) {
  const at::Tensor mask = mask_of({{0, 20}}, 64);
  EXPECT_TRUE(mask.equal(mask_of({{0, 20}}, 64)));
  EXPECT_FALSE(mask.equal(mask_of({{1, 20}}, 64))) << "row";
  EXPECT_FALSE(mask.equal(mask_of({{0, 20}}, 64, {8, 3}))) << "seed";
  EXPECT_FALSE(mask.equal(mask_of({{0, 20}}, 64, {(std::uint64_t{1} << 32U) | 7U, 3}))) << "the seed's upper half";
  EXPECT_FALSE(mask.equal(mask_of({{0, 20}}, 64, {7, 4}))) << "linear";
  EXPECT_FALSE(mask.equal(mask_of({{0, 20}}, 64, {7, 3}, 6))) << "step";
  for (std::int64_t t = 1; t < 20; ++t) EXPECT_FALSE(mask[0].equal(mask[t])) << "position " << t;
  for (std::int64_t f = 4; f < 64; ++f) EXPECT_FALSE(mask.select(1, 0).equal(mask.select(1, f))) << "feature " << f;
}

TEST(Dropout, KeepsItsShareAndTheMean) {
  for (const double p : {0.05, 0.1, 0.5, 0.9}) {
    const at::Tensor mask = mask_of({{0, 400}, {1, 600}}, 200, {1, 0}, 0, p);
    const auto count = static_cast<double>(mask.numel());
    const double kept = mask.ne(0).sum().item<double>() / count;
    EXPECT_NEAR(kept, 1.0 - p, 5.0 * std::sqrt(p * (1.0 - p) / count)) << p;
    EXPECT_NEAR(mask.max().item<double>(), 1.0 / (1.0 - p), 1e-6);
    const at::Tensor lines = mask.ne(0).to(at::kDouble).mean(0);  // no feature is favoured
    EXPECT_LT((lines - (1.0 - p)).abs().max().item<double>(), 5.0 * std::sqrt(p * (1.0 - p) / 1000.0)) << p;
  }
}

TEST(Dropout, LeavesTheTailAndWorksInPlace) {
  const at::Tensor mask = mask_of({{0, 6}}, 12, {7, 3}, 5, 0.5, 4);
  EXPECT_TRUE(mask.narrow(0, 6, 4).equal(at::ones({4, 12}, at::kDouble)));
  const at::Tensor x = at::arange(72, at::kDouble).view({6, 12}) + 1.0;
  const at::Tensor expected = x * mask.narrow(0, 0, 6);
  apply_dropout(x, x, batch_of({{0, 6}}, 5), {7, 3}, 0.5);
  EXPECT_TRUE(x.equal(expected));
}

}  // namespace
}  // namespace qlora
