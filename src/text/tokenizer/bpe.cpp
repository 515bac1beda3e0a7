#include "qlora/text/tokenizer/bpe.h"

#include <algorithm>

#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/text/tokenizer/byte_characters.h"
#include "qlora/text/tokenizer/unicode.h"
#include "qlora/text/tokenizer/word_cache.h"

namespace qlora {
namespace {

constexpr std::string_view kWordMark = "\xE2\x96\x81";  // U+2581, a space in SentencePiece's vocabularies
constexpr std::size_t kFewSymbols = 32;                 // up to here scanning beats a queue

struct QueuedMerge {
  std::uint32_t rank;
  std::uint32_t position;
  std::int32_t id;
  // The queue gives the lowest rank first, of equal ones the leftmost.
  bool operator<(const QueuedMerge& other) const {
    return rank != other.rank ? rank > other.rank : position > other.position;
  }
};

struct LinkedSymbol {
  std::int32_t id;
  std::uint32_t length;  // 0: merged into the symbol before it
  std::uint32_t previous, next;
};

constexpr std::uint32_t kNone = UINT32_MAX;

}  // namespace

struct Bpe::Buffers final : TokenModel::Scratch {
  WordCache cache;
  std::vector<ModelToken> symbols;  // of the word at work
  std::vector<PairMerge> pairs;     // of each symbol with the next
  std::vector<LinkedSymbol> links;
  std::vector<QueuedMerge> queue;
};

Bpe::Bpe(BpeOptions options, TokenTable tokens, MergeTable merges)
    : options_(std::move(options)), tokens_(std::move(tokens)), merges_(std::move(merges)) {
  lengths_.resize(static_cast<std::size_t>(tokens_.max_id() + 1));
  for (std::int32_t id = 0; id <= tokens_.max_id(); ++id) {
    lengths_[static_cast<std::size_t>(id)] = static_cast<std::uint32_t>(tokens_.text_of(id).value_or("").size());
  }
  for (int byte = 0; byte < 256; ++byte) {
    fallback_[static_cast<std::size_t>(byte)] = tokens_.id_of(fmt::format("<0x{:02X}>", byte)).value_or(-1);
  }
  for (int c = 0; c < 128; ++c) {
    const char character = static_cast<char>(c);
    ascii_[static_cast<std::size_t>(c)] = tokens_.id_of({&character, 1}).value_or(-1);
  }
  split_before_mark_ = splits_before_mark();
}

// Whether no merge ever joins U+2581 to another character before it, so that words can be merged one by one.
bool Bpe::splits_before_mark() const {
  if (!options_.continuing_subword_prefix.empty() || !options_.end_of_word_suffix.empty()) return false;
  if (!tokens_.id_of(kWordMark)) return false;
  for (std::int32_t id = 0; id <= tokens_.max_id(); ++id) {
    const std::string_view token = tokens_.text_of(id).value_or("");
    for (std::size_t at = token.find(kWordMark, 1); at != std::string_view::npos; at = token.find(kWordMark, at + 1)) {
      if (token.substr(at - std::min(at, kWordMark.size()), kWordMark.size()) != kWordMark) return false;
    }
  }
  return true;
}

std::unique_ptr<TokenModel::Scratch> Bpe::make_scratch() const {
  return std::make_unique<Buffers>();
}

bool Bpe::can_use_raw_bytes() const {
  const bool all = std::all_of(byte_characters().begin(), byte_characters().end(),
                               [&](const std::string& character) { return tokens_.id_of(character).has_value(); });
  return all && options_.continuing_subword_prefix.empty() && options_.end_of_word_suffix.empty();
}

void Bpe::use_raw_bytes() {
  raw_ = true;
  split_before_mark_ = false;
  for (std::size_t byte = 0; byte < 256; ++byte) byte_ids_[byte] = *tokens_.id_of(byte_characters()[byte]);
  byte_merges_.resize(std::size_t{256} * 256);
  for (std::size_t left = 0; left < 256; ++left) {
    for (std::size_t right = 0; right < 256; ++right) {
      byte_merges_[left * 256 + right] = merges_.find(byte_ids_[left], byte_ids_[right]);
    }
  }
  for (std::int32_t id = 0; id <= tokens_.max_id(); ++id) {
    const auto bytes = bytes_of_characters(tokens_.text_of(id).value_or(""));
    if (!bytes || bytes->empty()) continue;
    lengths_[static_cast<std::size_t>(id)] = static_cast<std::uint32_t>(bytes->size());
    raw_tokens_.add(*bytes, id);
  }
}

std::optional<std::int32_t> Bpe::whole_word(std::string_view piece) const {
  return raw_ ? raw_tokens_.id_of(piece) : tokens_.id_of(piece);
}

void Bpe::tokenize(std::string_view piece, Scratch& scratch, std::vector<ModelToken>& out) const {
  auto& buffers = static_cast<Buffers&>(scratch);
  if (!split_before_mark_) return tokenize_word(piece, buffers, out);
  if (options_.ignore_merges) {
    if (const auto id = whole_word(piece)) return out.push_back({*id, static_cast<std::uint32_t>(piece.size())});
  }
  std::size_t begin = 0;
  while (begin < piece.size()) {
    std::size_t end = begin;
    while (piece.substr(end, kWordMark.size()) == kWordMark) end += kWordMark.size();
    end = std::min(piece.find(kWordMark, end), piece.size());
    tokenize_word(piece.substr(begin, end - begin), buffers, out);
    begin = end;
  }
}

void Bpe::tokenize_word(std::string_view word, Buffers& buffers, std::vector<ModelToken>& out) const {
  const bool cached = word.size() <= WordCache::kMaxBytes;
  const std::uint64_t hash = cached ? hash_bytes(word) : 0;
  if (cached) {
    const auto ids = buffers.cache.find(word, hash);
    for (const std::int32_t id : ids) out.push_back({id, lengths_[static_cast<std::size_t>(id)]});
    if (!ids.empty()) return;
  }
  std::vector<ModelToken>& symbols = buffers.symbols;
  symbols.clear();
  if (options_.ignore_merges && !split_before_mark_) {
    if (const auto id = whole_word(word)) symbols.push_back({*id, static_cast<std::uint32_t>(word.size())});
  }
  if (symbols.empty()) {
    raw_ ? start_from_bytes(word, symbols) : start_from_characters(word, symbols);
    symbols.size() <= kFewSymbols ? merge_few(word, buffers) : merge_many(buffers);
  }
  if (cached) remember(word, hash, buffers);
  out.insert(out.end(), symbols.begin(), symbols.end());
}

void Bpe::remember(std::string_view word, std::uint64_t hash, Buffers& buffers) const {
  const std::vector<ModelToken>& symbols = buffers.symbols;
  if (word.empty() || symbols.empty() || symbols.size() > WordCache::kMaxTokens) return;
  std::array<std::int32_t, WordCache::kMaxTokens> ids;
  for (std::size_t i = 0; i < symbols.size(); ++i) {
    // A cached token's length is looked up by id, which is wrong for unknown characters and fallback bytes.
    if (lengths_[static_cast<std::size_t>(symbols[i].id)] != symbols[i].length) return;
    ids[i] = symbols[i].id;
  }
  buffers.cache.store(word, hash, {ids.data(), symbols.size()});
}

void Bpe::start_from_bytes(std::string_view word, std::vector<ModelToken>& symbols) const {
  symbols.resize(word.size());
  for (std::size_t i = 0; i < word.size(); ++i) symbols[i] = {byte_ids_[static_cast<unsigned char>(word[i])], 1};
}

std::optional<std::int32_t> Bpe::character_id(std::string_view character, bool first, bool last) const {
  const bool prefixed = !first && !options_.continuing_subword_prefix.empty();
  const bool suffixed = last && !options_.end_of_word_suffix.empty();
  if (prefixed || suffixed) {
    const std::string spelt = (prefixed ? options_.continuing_subword_prefix : "") + std::string(character) +
                              (suffixed ? options_.end_of_word_suffix : "");
    return tokens_.id_of(spelt);
  }
  if (character.size() > 1) return tokens_.id_of(character);
  const std::int32_t id = ascii_[static_cast<unsigned char>(character[0])];
  return id < 0 ? std::nullopt : std::optional(id);
}

bool Bpe::add_fallback_bytes(std::string_view character, bool first, bool last,
                             std::vector<ModelToken>& symbols) const {
  const std::string spelt = (first ? "" : options_.continuing_subword_prefix) + std::string(character) +
                            (last ? options_.end_of_word_suffix : "");
  for (const char c : spelt) {
    if (fallback_[static_cast<unsigned char>(c)] < 0) return false;
  }
  for (const char c : spelt) symbols.push_back({fallback_[static_cast<unsigned char>(c)], 1});
  return true;
}

void Bpe::start_from_characters(std::string_view word, std::vector<ModelToken>& symbols) const {
  std::optional<ModelToken> unknown;  // waits for the next known character, as in the reference
  const auto flush = [&] {
    if (unknown) symbols.push_back(*unknown);
    unknown.reset();
  };
  for (std::size_t at = 0; at < word.size();) {
    const std::uint32_t length = code_point_at(word, at).length;
    const std::string_view character = word.substr(at, length);
    const bool first = at == 0, last = at + length == word.size();
    at += length;
    if (const auto id = character_id(character, first, last)) {
      flush();
      symbols.push_back({*id, length});
      continue;
    }
    if (options_.byte_fallback && add_fallback_bytes(character, first, last, symbols)) continue;
    if (!options_.unk_token) continue;  // the reference drops the character
    const auto unk = tokens_.id_of(*options_.unk_token);
    if (!unk) {
      throw DataError(
          fmt::format("the text holds the unknown character \"{}\", and the tokenizer's unk_token \"{}\" is "
                      "not in its vocabulary",
                      character, *options_.unk_token));
    }
    if (unknown && options_.fuse_unk) {
      unknown->length += length;
    } else {
      flush();
      unknown = ModelToken{*unk, length};
    }
  }
  flush();
}

// Merges the lowest rank, leftmost first, until none is left.
void Bpe::merge_few(std::string_view word, Buffers& buffers) const {
  std::vector<ModelToken>& symbols = buffers.symbols;
  std::vector<PairMerge>& pairs = buffers.pairs;
  if (symbols.size() < 2) return;
  pairs.resize(symbols.size() - 1);
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    if (raw_) {
      pairs[i] = byte_merges_[static_cast<unsigned char>(word[i]) * 256U + static_cast<unsigned char>(word[i + 1])];
    } else {
      pairs[i] = merge_of(symbols[i], symbols[i + 1]);
    }
  }
  std::size_t count = symbols.size();
  while (count > 1) {
    std::size_t best = 0;
    for (std::size_t i = 1; i + 1 < count; ++i) best = pairs[i].rank < pairs[best].rank ? i : best;
    if (pairs[best].rank == UINT32_MAX) break;
    symbols[best] = {pairs[best].id, symbols[best].length + symbols[best + 1].length};
    const auto gone = static_cast<std::ptrdiff_t>(best);
    const auto end = static_cast<std::ptrdiff_t>(count);
    std::copy(symbols.begin() + gone + 2, symbols.begin() + end, symbols.begin() + gone + 1);
    if (best + 2 < count) std::copy(pairs.begin() + gone + 1, pairs.begin() + end - 1, pairs.begin() + gone);
    --count;
    if (best + 1 < count) pairs[best] = merge_of(symbols[best], symbols[best + 1]);
    if (best > 0) pairs[best - 1] = merge_of(symbols[best - 1], symbols[best]);
  }
  symbols.resize(count);
}

void Bpe::merge_many(Buffers& buffers) const {
  std::vector<LinkedSymbol>& links = buffers.links;
  std::vector<QueuedMerge>& queue = buffers.queue;
  const auto count = static_cast<std::uint32_t>(buffers.symbols.size());
  links.resize(count);
  queue.clear();
  for (std::uint32_t i = 0; i < count; ++i) {
    const ModelToken& symbol = buffers.symbols[i];
    links[i] = {symbol.id, symbol.length, i == 0 ? kNone : i - 1, i + 1 == count ? kNone : i + 1};
  }
  const auto candidate = [&](std::uint32_t left) {
    const PairMerge merge = merges_.find(links[left].id, links[links[left].next].id);
    if (merge.rank != UINT32_MAX) queue.push_back({merge.rank, left, merge.id});
    return merge.rank != UINT32_MAX;
  };
  for (std::uint32_t i = 0; i + 1 < count; ++i) candidate(i);
  std::make_heap(queue.begin(), queue.end());
  while (!queue.empty()) {
    std::pop_heap(queue.begin(), queue.end());
    const QueuedMerge top = queue.back();
    queue.pop_back();
    LinkedSymbol& left = links[top.position];
    if (left.length == 0 || left.next == kNone) continue;
    LinkedSymbol& right = links[left.next];
    if (merges_.find(left.id, right.id).id != top.id) continue;  // queued before one of the two changed
    left.id = top.id;
    left.length += right.length;
    left.next = right.next;
    right.length = 0;
    if (left.next != kNone) links[left.next].previous = top.position;
    if (left.previous != kNone && candidate(left.previous)) std::push_heap(queue.begin(), queue.end());
    if (left.next != kNone && candidate(top.position)) std::push_heap(queue.begin(), queue.end());
  }
  buffers.symbols.clear();
  for (const LinkedSymbol& link : links) {
    if (link.length > 0) buffers.symbols.push_back({link.id, link.length});
  }
}

}  // namespace qlora
