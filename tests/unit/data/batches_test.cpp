#include "qlora/data/batches.h"

#include <algorithm>
#include <numeric>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "qlora/core/error.h"

namespace qlora {
namespace {

using ::testing::ElementsAre;

// Row r has length lengths[r], ids r * 100 + position, and loss on its last half.
PreparedSet set_of(const std::vector<int>& lengths) {
  std::vector<EncodedRow> rows;
  std::vector<Json> ids;
  for (std::size_t r = 0; r < lengths.size(); ++r) {
    EncodedRow row;
    for (int t = 0; t < lengths[r]; ++t) {
      row.ids.push_back(static_cast<std::int32_t>(r) * 100 + t);
      row.labelled.push_back(t >= lengths[r] / 2);
    }
    rows.push_back(row);
    ids.push_back(r);
  }
  return PreparedSet::from_rows(rows, ids, Json::object());
}

std::vector<std::uint32_t> rows_of(const StepRows& step) {
  std::vector<std::uint32_t> rows;
  for (const auto& batch : step.micro_batches) rows.insert(rows.end(), batch.begin(), batch.end());
  return rows;
}

TEST(PackRows, PositionsRestartAndTargetsStayInTheirRow) {
  const PreparedSet set = set_of({4, 1, 3});
  const std::vector<std::uint32_t> rows = {2, 1, 0};
  const PackedBatch batch = pack_rows(set, rows, 5);
  EXPECT_THAT(batch.ids, ElementsAre(200, 201, 202, 100, 0, 1, 2, 3));
  EXPECT_THAT(batch.positions, ElementsAre(0, 1, 2, 0, 0, 1, 2, 3));
  EXPECT_THAT(batch.bounds, ElementsAre(0, 3, 4, 8));
  // Row 2 learns its tokens 1 and 2, row 0 its 2 and 3; row 1's only token has none before it.
  EXPECT_THAT(batch.targets, ElementsAre(0, 1, 5, 6));
  EXPECT_THAT(batch.target_ids, ElementsAre(201, 202, 2, 3));
  EXPECT_THAT(batch.rows, ElementsAre(5, 6, 7));
  EXPECT_THAT(batch.set_rows, ElementsAre(2, 1, 0));
  EXPECT_EQ(batch.max_length(), 4);
}

TEST(Epoch, ShuffledOrderIsAPermutationOfItsOwnEachEpoch) {
  const PreparedSet set = set_of(std::vector<int>(101, 3));
  const BatchOptions options{.batch_size = 4, .accumulation = 2, .seed = 7};
  std::vector<std::vector<std::uint32_t>> orders;
  for (std::int64_t e = 0; e < 2; ++e) {
    const Epoch epoch(set, options, e);
    ASSERT_EQ(epoch.steps(), 13);
    std::vector<std::uint32_t> order;
    for (std::int64_t s = 0; s < epoch.steps(); ++s) {
      const auto rows = rows_of(epoch.step(s));
      EXPECT_EQ(rows.size(), s < 12 ? 8U : 5U);
      order.insert(order.end(), rows.begin(), rows.end());
    }
    orders.push_back(order);
    std::sort(order.begin(), order.end());
    std::vector<std::uint32_t> all(101);
    std::iota(all.begin(), all.end(), 0U);
    EXPECT_EQ(order, all);
  }
  EXPECT_NE(orders[0], orders[1]);
  EXPECT_NE(rows_of(Epoch(set, {.batch_size = 101, .seed = 8}, 0).step(0)), orders[0]);
}

TEST(Epoch, TheSplitIntoMicroBatchesChangesNoStep) {
  const PreparedSet set = set_of({5, 9, 2, 7, 3, 8, 4, 6, 5, 9, 1, 7, 3, 8, 4, 6, 2, 2});
  const Epoch whole(set, {.batch_size = 16, .accumulation = 1, .seed = 3}, 0);
  for (const auto& [batch, accumulation] : {std::pair{8, 2}, std::pair{4, 4}, std::pair{1, 16}}) {
    const Epoch split(set, {.batch_size = batch, .accumulation = accumulation, .seed = 3}, 0);
    ASSERT_EQ(split.steps(), whole.steps());
    for (std::int64_t s = 0; s < whole.steps(); ++s) {
      const StepRows a = whole.step(s), b = split.step(s);
      EXPECT_EQ(rows_of(a), rows_of(b));
      EXPECT_EQ(a.targets, b.targets);
      EXPECT_EQ(a.tokens, b.tokens);
      // A row keeps its key, so its dropout mask does not depend on the split.
      std::vector<std::int32_t> keys;
      std::int64_t targets = 0;
      for (std::size_t m = 0; m < b.micro_batches.size(); ++m) {
        const PackedBatch packed = b.batch(set, m);
        keys.insert(keys.end(), packed.rows.begin(), packed.rows.end());
        targets += static_cast<std::int64_t>(packed.targets.size());
      }
      EXPECT_EQ(keys, a.batch(set, 0).rows);
      EXPECT_EQ(targets, a.targets);
    }
  }
}

TEST(Epoch, WithoutShuffleTheFilesOrderStays) {
  const PreparedSet set = set_of({1, 2, 3, 4, 5});
  const Epoch epoch(set, {.batch_size = 2, .accumulation = 1, .shuffle = false}, 3);
  EXPECT_THAT(rows_of(epoch.step(0)), ElementsAre(0, 1));
  EXPECT_THAT(rows_of(epoch.step(1)), ElementsAre(2, 3));
  EXPECT_THAT(rows_of(epoch.step(2)), ElementsAre(4));
  EXPECT_EQ(evaluation_batches(set, 2).step(1).batch(set, 0).ids,
            pack_rows(set, std::vector<std::uint32_t>{2, 3}, 0).ids);
}

TEST(Epoch, PackingFillsPacksAndLosesNoRow) {
  const std::vector<int> lengths = {9, 1, 8, 2, 7, 3, 6, 4, 5, 5};
  const PreparedSet set = set_of(lengths);
  for (const bool shuffle : {true, false}) {
    const Epoch epoch(set, {.batch_size = 1, .packing = true, .pack_length = 10, .shuffle = shuffle}, 0);
    std::vector<std::uint32_t> order;
    for (std::int64_t s = 0; s < epoch.steps(); ++s) {
      const StepRows step = epoch.step(s);
      EXPECT_LE(step.tokens, 10);
      const auto rows = rows_of(step);
      order.insert(order.end(), rows.begin(), rows.end());
    }
    EXPECT_TRUE(shuffle || std::is_sorted(order.begin(), order.end()));
    EXPECT_EQ(epoch.steps(), 5);  // 50 tokens in packs of 10 leave no room
    std::sort(order.begin(), order.end());
    EXPECT_THAT(order, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9));
  }
}

TEST(Epoch, PackingTakesRowsLongerThanAPackAlone) {
  const PreparedSet set = set_of({30, 2, 2});
  const Epoch epoch(set, {.batch_size = 1, .packing = true, .pack_length = 10}, 0);
  EXPECT_EQ(epoch.steps(), 2);
}

TEST(Batcher, ContinuesAnywhereAsIfItHadNeverStopped) {
  const PreparedSet set = set_of({5, 9, 2, 7, 3, 8, 4, 6, 5, 9, 1});
  for (const bool packing : {false, true}) {
    const BatchOptions options{
        .batch_size = 2, .accumulation = 2, .packing = packing, .pack_length = 12, .shuffle = true, .seed = 11};
    Batcher whole(set, options);
    for (int step = 0; step < 10; ++step) {
      Batcher resumed(set, options, whole.position());
      EXPECT_EQ(rows_of(resumed.next()), rows_of(whole.next()));
      EXPECT_EQ(resumed.position().epoch, whole.position().epoch);
      EXPECT_EQ(resumed.position().step, whole.position().step);
    }
    EXPECT_GE(whole.position().epoch, 2);
  }
}

TEST(Batcher, RefusesWhatCannotBe) {
  const PreparedSet set = set_of({3, 3});
  EXPECT_THROW(Batcher(set, {.batch_size = 0}), UsageError);
  EXPECT_THROW(Batcher(set, {.packing = true}), UsageError);
  EXPECT_THROW(Batcher(set, {.batch_size = 2}, {.epoch = 0, .step = 1}), UsageError);
  EXPECT_THROW(Batcher(set_of({}), {}), DataError);
}

}  // namespace
}  // namespace qlora
