// The token ids of words seen lately: one thread's, of bounded size.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "qlora/text/tokenizer/token_tables.h"

namespace qlora {

// Each word has one slot of a cache line; a newer word takes the place of an older one.
class WordCache {
 public:
  static constexpr std::size_t kMaxBytes = 26;
  static constexpr std::size_t kMaxTokens = 8;

  WordCache() : slots_(kSlots) {}

  // The ids stored for the word; empty where there are none. Valid until the next store.
  std::span<const std::int32_t> find(std::string_view word, std::uint64_t hash) const {
    const Slot& slot = slots_[hash & (kSlots - 1)];
    if (slot.length != word.size() || slot.tag != tag_of(hash)) return {};
    if (std::memcmp(slot.bytes.data(), word.data(), word.size()) != 0) return {};
    return {slot.ids.data(), slot.count};
  }

  // word: 1 to kMaxBytes bytes; ids: 1 to kMaxTokens.
  void store(std::string_view word, std::uint64_t hash, std::span<const std::int32_t> ids) {
    Slot& slot = slots_[hash & (kSlots - 1)];
    slot.tag = tag_of(hash);
    slot.length = static_cast<std::uint8_t>(word.size());
    slot.count = static_cast<std::uint8_t>(ids.size());
    std::memcpy(slot.bytes.data(), word.data(), word.size());
    std::memcpy(slot.ids.data(), ids.data(), ids.size_bytes());
  }

 private:
  static constexpr std::size_t kSlots = std::size_t{1} << 16;
  static std::uint32_t tag_of(std::uint64_t hash) { return static_cast<std::uint32_t>(hash >> 32); }
  struct alignas(64) Slot {
    std::uint32_t tag = 0;
    std::uint8_t length = 0;
    std::uint8_t count = 0;
    std::array<char, kMaxBytes> bytes;
    std::array<std::int32_t, kMaxTokens> ids;
  };
  std::vector<Slot> slots_;
};

}  // namespace qlora
