#include "qlora/text/tokenizer/added_tokens.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "qlora/text/tokenizer/unicode.h"

namespace qlora {
namespace {

// \w of Rust's regular expressions, told once by a pattern that means the same.
bool is_word(std::string_view character) {
  static const Regex word(fmt::format("\\A[{}]\\z", kRustWordMembers));
  return word.find(character, 0).has_value();
}

bool ends_with_word(std::string_view text) {
  if (text.empty()) return false;
  std::size_t last = text.size() - 1;
  while (last > 0 && (static_cast<unsigned char>(text[last]) & 0xC0) == 0x80) --last;
  return is_word(text.substr(last));
}

bool starts_with_word(std::string_view text) {
  return !text.empty() && is_word(text.substr(0, code_point_at(text, 0).length));
}

std::size_t spaces_before(std::string_view text, std::size_t end) {
  while (end > 0) {
    std::size_t last = end - 1;
    while (last > 0 && (static_cast<unsigned char>(text[last]) & 0xC0) == 0x80) --last;
    if (!is_white_space(code_point_at(text, last).value)) break;
    end = last;
  }
  return end;
}

std::size_t spaces_after(std::string_view text, std::size_t begin) {
  while (begin < text.size()) {
    const CodePoint point = code_point_at(text, begin);
    if (!is_white_space(point.value)) break;
    begin += point.length;
  }
  return begin;
}

}  // namespace

std::int32_t LiteralSet::child(std::int32_t node, unsigned char byte) const {
  const auto& next = nodes_[static_cast<std::size_t>(node)].next;
  const auto found = std::lower_bound(next.begin(), next.end(), std::pair<unsigned char, std::int32_t>(byte, -1));
  return found != next.end() && found->first == byte ? found->second : -1;
}

void LiteralSet::add(std::string_view text, std::int32_t value) {
  std::int32_t node = 0;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    std::int32_t next = child(node, byte);
    if (next < 0) {
      next = static_cast<std::int32_t>(nodes_.size());
      nodes_.emplace_back();
      auto& list = nodes_[static_cast<std::size_t>(node)].next;
      list.insert(std::lower_bound(list.begin(), list.end(), std::pair<unsigned char, std::int32_t>(byte, -1)),
                  {byte, next});
      if (node == 0) {
        first_[byte] = next;
        ++first_bytes_;
        only_first_ = byte;
      }
    }
    node = next;
  }
  nodes_[static_cast<std::size_t>(node)].value = value;
}

bool LiteralSet::contains(std::string_view text) const {
  std::int32_t node = 0;
  for (const char c : text) {
    node = child(node, static_cast<unsigned char>(c));
    if (node < 0) return false;
  }
  return nodes_[static_cast<std::size_t>(node)].value >= 0;
}

std::optional<LiteralSet::Match> LiteralSet::find(std::string_view text, std::size_t from) const {
  if (empty()) return std::nullopt;
  for (std::size_t begin = from; begin < text.size(); ++begin) {
    if (first_bytes_ == 1) {
      const void* found = std::memchr(text.data() + begin, only_first_, text.size() - begin);
      if (found == nullptr) return std::nullopt;
      begin = static_cast<std::size_t>(static_cast<const char*>(found) - text.data());
    }
    std::int32_t node = first_[static_cast<unsigned char>(text[begin])];
    std::optional<Match> longest;
    for (std::size_t end = begin + 1; node >= 0; ++end) {
      const std::int32_t value = nodes_[static_cast<std::size_t>(node)].value;
      if (value >= 0) longest = Match{begin, end, value};
      if (end == text.size()) break;
      node = child(node, static_cast<unsigned char>(text[end]));
    }
    if (longest) return longest;
  }
  return std::nullopt;
}

AddedTokens::AddedTokens(const JsonNode& list, const TokenModel& model, const Normalizer* normalizer,
                         const Rules& rules) {
  std::int32_t next_id = model.size();
  for (const JsonNode& node : list.items()) insert(node, model, normalizer, rules, next_id);
  if (!rules.found_in_text) return;
  for (const auto& [id, token] : by_id_) {
    LiteralSet& set = token.normalized ? normalized_ : raw_;
    if (token.pattern.empty() || set.contains(token.pattern)) {
      list.fail(fmt::format("the added token \"{}\" (id {}) is normalized to \"{}\", which is {}", token.content, id,
                            token.pattern, token.pattern.empty() ? "empty" : "another one's too"));
    }
    set.add(token.pattern, id);
  }
  for (const auto& [id, token] : by_id_) {
    const bool adds =
        rules.special_everywhere && token.special && token.normalized && !normalized_.contains(token.content);
    if (adds) normalized_.add(token.content, id);
  }
}

void AddedTokens::insert(const JsonNode& node, const TokenModel& model, const Normalizer* normalizer,
                         const Rules& rules, std::int32_t& next_id) {
  AddedToken token;
  const auto declared = static_cast<std::int32_t>(node.at("id").integer(0, kMaxTokenId));
  token.content = node.at("content").text();
  token.single_word = node.at("single_word").flag();
  token.lstrip = node.at("lstrip").flag();
  token.rstrip = node.at("rstrip").flag();
  token.normalized = node.at("normalized").flag();
  token.special = node.at("special").flag();
  if (token.content.empty()) return;  // the reference leaves it out
  const auto again = by_content_.find(token.content);
  const auto in_model = model.id_of(token.content);
  if (rules.declared_ids) {
    if (again != by_content_.end() || by_id_.contains(declared) || model.token_of(declared)) {
      node.fail(fmt::format("the content \"{}\" or the id {} is another token's too", token.content, declared));
    }
    token.id = declared;
  } else if (again != by_content_.end()) {
    token.id = again->second;
  } else if (in_model) {
    token.id = *in_model;
  } else {
    token.id = next_id++;
  }
  if (token.id != declared) {
    node.at("id").fail(fmt::format("is {}, but \"{}\" {} {}", declared, token.content,
                                   in_model ? "has in the vocabulary the id" : "would get as the next free id",
                                   token.id));
  }
  token.pattern = token.content;
  if (token.normalized && normalizer != nullptr) {
    AlignedText text{std::string_view(token.content)};
    normalizer->apply(text);
    token.pattern = std::string(text.bytes());
  }
  by_content_[token.content] = token.id;
  by_id_[token.id] = std::move(token);
}

const AddedToken* AddedTokens::find(std::string_view content) const {
  const auto found = by_content_.find(std::string(content));
  return found == by_content_.end() ? nullptr : find(found->second);
}

const AddedToken* AddedTokens::find(std::int32_t id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : &found->second;
}

void AddedTokens::cut(const LiteralSet& set, std::string_view text, std::vector<TextPiece>& out) const {
  std::size_t done = 0;
  const auto push = [&](std::size_t begin, std::size_t end, std::int32_t id) {
    out.push_back({static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(end), id});
  };
  std::size_t from = 0;
  while (const auto match = set.find(text, from)) {
    from = match->end;
    const AddedToken& token = by_id_.at(match->value);
    std::size_t begin = match->begin, end = match->end;
    if (token.single_word && (ends_with_word(text.substr(0, begin)) || starts_with_word(text.substr(end)))) continue;
    if (token.lstrip) begin = std::max(spaces_before(text, begin), done);
    if (token.rstrip) end = spaces_after(text, end);
    if (done < begin) push(done, begin, -1);
    if (begin < end) push(begin, end, match->value);
    done = end;
  }
  if (done < text.size()) push(done, text.size(), -1);
}

}  // namespace qlora
