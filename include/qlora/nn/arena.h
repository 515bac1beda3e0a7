// Lays buffers with known lifetimes into one piece of memory.
#pragma once

#include <cstdint>
#include <vector>

namespace qlora {

// A buffer that lives from instruction `first` to instruction `last`, both included.
struct ArenaBuffer {
  std::int64_t bytes = 0;
  int first = -1;
  int last = -1;
  std::int64_t offset = -1;  // filled in by lay_out()
};

constexpr std::int64_t kArenaAlignment = 256;

// Gives every buffer an offset such that buffers whose lifetimes meet never overlap; returns the bytes of the whole.
// Greedy by size (Pisarchyk & Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020): the largest
// first, each at the lowest gap that fits between those already placed that live at the same time.
std::int64_t lay_out(std::vector<ArenaBuffer>& buffers);

}  // namespace qlora
