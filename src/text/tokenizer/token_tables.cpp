#include "qlora/text/tokenizer/token_tables.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace qlora {
namespace {
__extension__ using Wide = unsigned __int128;
}

std::uint64_t hash_bytes(std::string_view bytes) {
  constexpr std::uint64_t kA = 0xA0761D6478BD642FULL, kB = 0xE7037ED1A0B428DBULL;
  const auto mix = [](std::uint64_t a, std::uint64_t b) {
    const Wide product = static_cast<Wide>(a) * b;
    return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
  };
  std::uint64_t hash = bytes.size() * kB;
  std::size_t at = 0;
  for (; at + 8 <= bytes.size(); at += 8) {
    std::uint64_t word;
    std::memcpy(&word, bytes.data() + at, 8);
    hash = mix(hash ^ word, kA);
  }
  std::uint64_t tail = 0;
  std::memcpy(&tail, bytes.data() + at, bytes.size() - at);
  return mix(hash ^ tail, kA ^ kB);
}

bool TokenTable::add(std::string_view text, std::int32_t id) {
  const auto index = static_cast<std::size_t>(id);
  if (index < places_.size() && places_[index].used) return false;
  if (static_cast<std::size_t>(count_ + 1) * 2 > slots_.size()) grow();
  const std::size_t slot = slot_of(text);
  if (slots_[slot] >= 0) return false;
  if (index >= places_.size()) places_.resize(index + 1);
  places_[index] = {bytes_.size(), static_cast<std::uint32_t>(text.size()), true};
  bytes_.append(text);
  slots_[slot] = id;
  ++count_;
  return true;
}

std::size_t TokenTable::slot_of(std::string_view text) const {
  const std::size_t mask = slots_.size() - 1;
  std::size_t slot = hash_bytes(text) & mask;
  while (slots_[slot] >= 0 && *text_of(slots_[slot]) != text) slot = (slot + 1) & mask;
  return slot;
}

void TokenTable::grow() {
  slots_.assign(std::max<std::size_t>(1024, slots_.size() * 2), -1);
  for (std::size_t id = 0; id < places_.size(); ++id) {
    if (!places_[id].used) continue;
    slots_[slot_of(*text_of(static_cast<std::int32_t>(id)))] = static_cast<std::int32_t>(id);
  }
}

std::optional<std::int32_t> TokenTable::id_of(std::string_view text) const {
  if (slots_.empty()) return std::nullopt;
  const std::int32_t id = slots_[slot_of(text)];
  return id < 0 ? std::nullopt : std::optional(id);
}

std::optional<std::string_view> TokenTable::text_of(std::int32_t id) const {
  if (id < 0 || static_cast<std::size_t>(id) >= places_.size()) return std::nullopt;
  const Place& place = places_[static_cast<std::size_t>(id)];
  if (!place.used) return std::nullopt;
  return std::string_view(bytes_).substr(place.begin, place.length);
}

MergeTable::MergeTable(std::size_t count) {
  const std::size_t size = std::bit_ceil(std::max<std::size_t>(16, count * 2));
  slots_.resize(size);
  mask_ = size - 1;
  shift_ = 64 - std::countr_zero(size);
}

void MergeTable::set(std::int32_t left, std::int32_t right, PairMerge merge) {
  const std::uint64_t key = key_of(left, right);
  std::size_t at = (key * kMix) >> shift_;
  while (slots_[at].key != kEmpty && slots_[at].key != key) at = (at + 1) & mask_;
  slots_[at] = {key, merge};
}

}  // namespace qlora
