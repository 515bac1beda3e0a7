// Reads the BPE model of a tokenizer.json.
#include <algorithm>

#include <fmt/format.h>

#include "qlora/text/tokenizer/bpe.h"
#include "qlora/text/tokenizer/unicode.h"

namespace qlora {
namespace {

BpeOptions read_options(const JsonNode& node) {
  BpeOptions options;
  if (const auto unk = node.find("unk_token")) options.unk_token = unk->text();
  options.continuing_subword_prefix = node.text_or("continuing_subword_prefix", "");
  options.end_of_word_suffix = node.text_or("end_of_word_suffix", "");
  options.fuse_unk = node.flag_or("fuse_unk", false);
  options.byte_fallback = node.flag_or("byte_fallback", false);
  options.ignore_merges = node.flag_or("ignore_merges", false);
  if (const auto dropout = node.find("dropout")) {
    if (!dropout->value().is_number()) dropout->fail("must be a number or null");
    if (dropout->value() != 0) dropout->fail("dropout while encoding is not supported; set it to null");
  }
  return options;
}

TokenTable read_vocabulary(const JsonNode& node) {
  if (!node.value().is_object()) node.fail("must be an object of tokens and their ids");
  TokenTable table;
  for (const auto& [token, id] : node.value().items()) {
    if (!id.is_number_integer()) node.at(token).fail("must be an integer");
    const std::int64_t number = node.at(token).integer(0, kMaxTokenId);
    if (!table.add(token, static_cast<std::int32_t>(number))) {
      node.at(token).fail(fmt::format("the id {} is taken by another token", number));
    }
  }
  return table;
}

struct MergeText {
  std::string_view left, right;
};

MergeText read_merge(const JsonNode& list, std::size_t index, bool pairs) {
  const nlohmann::json& merge = list.value()[index];
  if (pairs != merge.is_array()) list.item(index).fail("all merges must be strings, or all pairs");
  if (pairs) {
    if (merge.size() != 2 || !merge[0].is_string() || !merge[1].is_string()) {
      list.item(index).fail("must be a pair of strings");
    }
    return {merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>()};
  }
  const std::string_view text = list.item(index).text();
  const std::size_t space = text.find(' ');
  if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos) {
    list.item(index).fail("must be two tokens with one space between them");
  }
  return {text.substr(0, space), text.substr(space + 1)};
}

std::int32_t known_token(const TokenTable& tokens, std::string_view token, const JsonNode& list, std::size_t index) {
  const auto id = tokens.id_of(token);
  if (!id) list.item(index).fail(fmt::format("the token \"{}\" is not in the vocabulary", token));
  return *id;
}

bool is_version_line(const nlohmann::json& merge) {
  return merge.is_string() && merge.get_ref<const std::string&>().rfind("#version", 0) == 0;
}

MergeTable read_merges(const JsonNode& list, const TokenTable& tokens, std::size_t prefix_length) {
  if (!list.value().is_array()) list.fail("must be an array");
  const std::size_t count = list.value().size();
  MergeTable merges(count);
  const bool pairs = count > 0 && list.value()[0].is_array();
  std::uint32_t rank = 0;
  std::string joined;
  for (std::size_t i = 0; i < count; ++i) {
    if (is_version_line(list.value()[i])) continue;
    const MergeText merge = read_merge(list, i, pairs);
    const std::int32_t left = known_token(tokens, merge.left, list, i);
    const std::int32_t right = known_token(tokens, merge.right, list, i);
    if (merge.right.size() < prefix_length) list.item(i).fail("the second token is shorter than the subword prefix");
    joined.assign(merge.left).append(merge.right.substr(prefix_length));
    merges.set(left, right, {rank++, known_token(tokens, joined, list, i)});
  }
  return merges;
}

}  // namespace

std::unique_ptr<TokenModel> make_bpe(const JsonNode& node) {
  BpeOptions options = read_options(node);
  TokenTable tokens = read_vocabulary(node.at("vocab"));
  MergeTable merges = read_merges(node.at("merges"), tokens, options.continuing_subword_prefix.size());
  return std::make_unique<Bpe>(std::move(options), std::move(tokens), std::move(merges));
}

}  // namespace qlora
