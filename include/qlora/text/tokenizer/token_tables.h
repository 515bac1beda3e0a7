// Flat tables of a vocabulary: tokens by id, ids by token, merges by pair.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qlora {

std::uint64_t hash_bytes(std::string_view bytes);

// Texts and their ids, both ways. Ids may have gaps.
class TokenTable {
 public:
  // False where the id is taken; a text that is there already is refused too.
  bool add(std::string_view text, std::int32_t id);
  std::optional<std::int32_t> id_of(std::string_view text) const;
  std::optional<std::string_view> text_of(std::int32_t id) const;
  std::int32_t size() const { return count_; }
  std::int32_t max_id() const { return static_cast<std::int32_t>(places_.size()) - 1; }

 private:
  struct Place {
    std::size_t begin = 0;
    std::uint32_t length = 0;
    bool used = false;
  };
  void grow();
  std::size_t slot_of(std::string_view text) const;

  std::string bytes_;
  std::vector<Place> places_;        // by id
  std::vector<std::int32_t> slots_;  // open addressing: ids, -1 for empty; a power of two
  std::int32_t count_ = 0;
};

struct PairMerge {
  std::uint32_t rank = UINT32_MAX;  // UINT32_MAX: these two do not merge
  std::int32_t id = -1;
};

// Merges by (left id, right id).
class MergeTable {
 public:
  explicit MergeTable(std::size_t count);
  void set(std::int32_t left, std::int32_t right, PairMerge merge);  // replaces an earlier one
  PairMerge find(std::int32_t left, std::int32_t right) const {
    const std::uint64_t key = key_of(left, right);
    for (std::size_t at = (key * kMix) >> shift_;; at = (at + 1) & mask_) {
      if (slots_[at].key == key) return slots_[at].merge;
      if (slots_[at].key == kEmpty) return {};
    }
  }

 private:
  static constexpr std::uint64_t kMix = 0x9E3779B97F4A7C15ULL;
  static constexpr std::uint64_t kEmpty = ~std::uint64_t{0};
  struct Slot {
    std::uint64_t key = kEmpty;
    PairMerge merge;
  };
  static std::uint64_t key_of(std::int32_t left, std::int32_t right) {
    return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32) | static_cast<std::uint32_t>(right);
  }
  std::vector<Slot> slots_;
  std::size_t mask_ = 0;
  int shift_ = 0;
};

}  // namespace qlora
