// The field "added_tokens" of tokenizer.json: tokens that are found in the text before the model sees it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "qlora/text/tokenizer/json_node.h"
#include "qlora/text/tokenizer/normalizer.h"
#include "qlora/text/tokenizer/pre_tokenizer.h"
#include "qlora/text/tokenizer/token_model.h"

namespace qlora {

struct AddedToken {
  std::int32_t id = 0;
  std::string content;
  bool single_word = false, lstrip = false, rstrip = false, normalized = true, special = false;
  std::string pattern;  // what is looked for: the content, normalized where it says so
};

// Finds the leftmost, then longest, of a set of texts.
class LiteralSet {
 public:
  void add(std::string_view text, std::int32_t value);  // text: not empty; value >= 0
  bool contains(std::string_view text) const;
  bool empty() const { return nodes_.size() == 1; }
  struct Match {
    std::size_t begin, end;
    std::int32_t value;
  };
  std::optional<Match> find(std::string_view text, std::size_t from) const;

 private:
  struct Node {
    std::int32_t value = -1;
    std::vector<std::pair<unsigned char, std::int32_t>> next;  // sorted by byte
  };
  std::int32_t child(std::int32_t node, unsigned char byte) const;
  std::vector<Node> nodes_{1};
  std::vector<std::int32_t> first_ = std::vector<std::int32_t>(256, -1);
  int first_bytes_ = 0;  // number of bytes that a text starts with
  unsigned char only_first_ = 0;
};

class AddedTokens {
 public:
  struct Rules {
    // Special tokens are found as they are written, too, where normalization makes something else of them (Llama 2's
    // "</s>", which else is found behind a space alone).
    bool special_everywhere = false;
    // Ids are as declared, beside whatever the model has; else they are what Hugging Face's tokenizers give: the
    // model's where it has the content, else the next free one, and DataError where the file says another.
    bool declared_ids = false;
    bool found_in_text = true;  // false: they are only decoded
  };
  AddedTokens() = default;
  AddedTokens(const JsonNode& list, const TokenModel& model, const Normalizer* normalizer, const Rules& rules);

  // Cuts a raw text at tokens that are matched before normalization, then `text` at those matched after it.
  void cut_raw(std::string_view text, std::vector<TextPiece>& out) const { cut(raw_, text, out); }
  void cut_normalized(std::string_view text, std::vector<TextPiece>& out) const { cut(normalized_, text, out); }
  bool has_normalized() const { return !normalized_.empty(); }

  const AddedToken* find(std::string_view content) const;
  const AddedToken* find(std::int32_t id) const;
  const std::map<std::int32_t, AddedToken>& all() const { return by_id_; }

 private:
  void insert(const JsonNode& node, const TokenModel& model, const Normalizer* normalizer, const Rules& rules,
              std::int32_t& next_id);
  void cut(const LiteralSet& set, std::string_view text, std::vector<TextPiece>& out) const;

  std::map<std::int32_t, AddedToken> by_id_;
  std::unordered_map<std::string, std::int32_t> by_content_;
  LiteralSet raw_, normalized_;
};

}  // namespace qlora
