// Buffers that live at the same time never overlap, and the whole is not larger than it must be.
#include "qlora/nn/arena.h"

#include <algorithm>
#include <random>

#include <gtest/gtest.h>

namespace qlora {
namespace {

std::int64_t aligned(std::int64_t bytes) {
  return (bytes + kArenaAlignment - 1) / kArenaAlignment * kArenaAlignment;
}

bool live_together(const ArenaBuffer& a, const ArenaBuffer& b) {
  return a.first <= b.last && b.first <= a.last;
}

// The most bytes that live at one instruction: no layout can be smaller.
std::int64_t peak_bytes(const std::vector<ArenaBuffer>& buffers, int instructions) {
  std::int64_t peak = 0;
  for (int i = 0; i < instructions; ++i) {
    std::int64_t live = 0;
    for (const ArenaBuffer& b : buffers) live += b.first <= i && i <= b.last ? aligned(b.bytes) : 0;
    peak = std::max(peak, live);
  }
  return peak;
}

std::int64_t sum_bytes(const std::vector<ArenaBuffer>& buffers) {
  std::int64_t sum = 0;
  for (const ArenaBuffer& b : buffers) sum += aligned(b.bytes);
  return sum;
}

void expect_valid(const std::vector<ArenaBuffer>& buffers, std::int64_t total) {
  for (std::size_t i = 0; i < buffers.size(); ++i) {
    const ArenaBuffer& a = buffers[i];
    EXPECT_GE(a.offset, 0);
    EXPECT_EQ(a.offset % kArenaAlignment, 0);
    EXPECT_LE(a.offset + a.bytes, total);
    for (std::size_t j = i + 1; j < buffers.size(); ++j) {
      const ArenaBuffer& b = buffers[j];
      if (!live_together(a, b) || a.bytes == 0 || b.bytes == 0) continue;
      EXPECT_TRUE(a.offset + a.bytes <= b.offset || b.offset + b.bytes <= a.offset) << i << " overlaps " << j;
    }
  }
}

TEST(Arena, RandomLifetimesNeverOverlap) {
  constexpr int kInstructions = 40;
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    std::vector<ArenaBuffer> buffers(1 + random() % 60);
    for (ArenaBuffer& b : buffers) {
      b.bytes = static_cast<std::int64_t>(random() % (round % 2 == 0 ? 300U : 100000U));
      b.first = static_cast<int>(random() % kInstructions);
      b.last = std::min(kInstructions - 1, b.first + static_cast<int>(random() % 12));
    }
    const std::int64_t total = lay_out(buffers);
    expect_valid(buffers, total);
    EXPECT_LE(total, sum_bytes(buffers));
    EXPECT_GE(total, peak_bytes(buffers, kInstructions));
  }
}

TEST(Arena, BuffersThatNeverMeetShareTheirBytes) {
  std::vector<ArenaBuffer> buffers{{1000, 0, 1}, {1000, 2, 3}, {1000, 4, 4}};
  EXPECT_EQ(lay_out(buffers), aligned(1000));
}

TEST(Arena, ALifetimeIncludesItsLastInstruction) {
  std::vector<ArenaBuffer> buffers{{256, 0, 2}, {256, 2, 3}};
  EXPECT_EQ(lay_out(buffers), 512);
}

TEST(Arena, ASmallBufferFillsTheGapThatALargeOneLeft) {
  std::vector<ArenaBuffer> buffers{{1024, 0, 1}, {512, 0, 5}, {512, 2, 5}, {512, 3, 5}};
  EXPECT_EQ(lay_out(buffers), 1536);
}

TEST(Arena, NothingNeedsNothing) {
  std::vector<ArenaBuffer> none;
  EXPECT_EQ(lay_out(none), 0);
}

}  // namespace
}  // namespace qlora
