#include "qlora/text/tokenizer/unigram.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/text/tokenizer/unicode.h"

namespace qlora {
namespace {

constexpr double kUnknownPenalty = 10;
constexpr std::size_t kMaxVocabularyBytes = std::size_t{16} << 20;  // a node of the trie for each, at most
constexpr std::uint32_t kNowhere = UINT32_MAX;

PrefixTrie trie_of(const TokenTable& tokens) {
  std::vector<std::pair<std::string_view, std::int32_t>> entries;
  for (std::int32_t id = 0; id <= tokens.max_id(); ++id) entries.emplace_back(*tokens.text_of(id), id);
  return PrefixTrie(std::move(entries));
}

// The reference reads a number's digits as an integer and divides: up to one unit in the last place beside the nearest
// double, which decides between paths of equal sums. The shortest digits of `score` are those of the file.
double score_as_read(double score) {
  std::array<char, 32> text;
  const auto written =
      std::to_chars(text.data(), text.data() + text.size(), std::abs(score), std::chars_format::scientific);
  std::uint64_t digits = 0;
  int exponent = 0;
  const char* at = text.data();
  for (bool fraction = false; *at != 'e'; ++at) {
    if (*at == '.') {
      fraction = true;
      continue;
    }
    digits = digits * 10 + static_cast<std::uint64_t>(*at - '0');
    exponent -= fraction ? 1 : 0;
  }
  int shift = 0;
  std::from_chars(at[1] == '+' ? at + 2 : at + 1, written.ptr, shift);
  exponent += shift;
  auto value = static_cast<double>(digits);
  for (; exponent < -308; exponent += 308) value /= 1e308;
  const double power = std::stod(fmt::format("1e{}", std::abs(exponent)));
  value = exponent < 0 ? value / power : value * power;
  return std::signbit(score) ? -value : value;
}

}  // namespace

// The best path to each byte of the piece.
struct Unigram::Buffers final : TokenModel::Scratch {
  struct Step {
    double score = 0;
    std::uint32_t from = kNowhere;
    std::int32_t id = -1;
  };
  std::vector<Step> steps;
  std::vector<ModelToken> path;
};

Unigram::Unigram(UnigramOptions options, TokenTable tokens, std::vector<double> scores)
    : options_(options), tokens_(std::move(tokens)), scores_(std::move(scores)), trie_(trie_of(tokens_)) {
  double least = std::numeric_limits<double>::infinity();
  for (const double score : scores_) least = std::min(least, score);
  unknown_score_ = least - kUnknownPenalty;
}

std::unique_ptr<TokenModel::Scratch> Unigram::make_scratch() const {
  return std::make_unique<Buffers>();
}

void Unigram::find_paths(std::string_view piece, Buffers& buffers) const {
  auto& steps = buffers.steps;
  steps.assign(piece.size() + 1, {});
  const auto offer = [&](std::size_t from, std::size_t to, double score, std::int32_t id) {
    const double sum = score + steps[from].score;
    if (steps[to].from == kNowhere || sum > steps[to].score) steps[to] = {sum, static_cast<std::uint32_t>(from), id};
  };
  for (std::size_t at = 0; at < piece.size();) {
    const std::uint32_t length = code_point_at(piece, at).length;
    bool known = false;
    trie_.for_each_prefix(piece.substr(at), [&](std::size_t bytes, std::int32_t id) {
      offer(at, at + bytes, scores_[static_cast<std::size_t>(id)], id);
      known = known || bytes == length;
    });
    if (!known) {
      if (!options_.unk_id) {
        throw DataError(fmt::format("the text holds the unknown character \"{}\", and the tokenizer has no unk_id",
                                    piece.substr(at, length)));
      }
      offer(at, at + length, unknown_score_, *options_.unk_id);
    }
    at += length;
  }
}

void Unigram::tokenize(std::string_view piece, Scratch& scratch, std::vector<ModelToken>& out) const {
  auto& buffers = static_cast<Buffers&>(scratch);
  find_paths(piece, buffers);
  auto& path = buffers.path;
  path.clear();
  for (std::size_t end = piece.size(); end > 0;) {
    const auto& step = buffers.steps[end];
    const auto length = static_cast<std::uint32_t>(end - step.from);
    const bool fuses = step.id == options_.unk_id && !path.empty() && path.back().id == step.id;
    if (fuses) {
      path.back().length += length;
    } else {
      path.push_back({step.id, length});
    }
    end = step.from;
  }
  std::reverse(path.begin(), path.end());
  std::size_t at = 0;
  for (const ModelToken& token : path) {
    if (token.id == options_.unk_id) {
      append_unknown(piece.substr(at, token.length), out);
    } else {
      out.push_back(token);
    }
    at += token.length;
  }
}

void Unigram::append_unknown(std::string_view text, std::vector<ModelToken>& out) const {
  const auto length = static_cast<std::uint32_t>(text.size());
  if (const auto id = tokens_.id_of(text)) return out.push_back({*id, length});  // several, which are a rare token
  const std::size_t before = out.size();
  for (std::size_t i = 0; options_.byte_fallback && i < text.size(); ++i) {
    const auto id = tokens_.id_of(fmt::format("<0x{:02X}>", static_cast<unsigned char>(text[i])));
    if (!id) {
      out.resize(before);
      break;
    }
    out.push_back({*id, 1});
  }
  if (out.size() == before) out.push_back({*options_.unk_id, length});
}

std::unique_ptr<TokenModel> make_unigram(const JsonNode& node) {
  const JsonNode vocabulary = node.at("vocab");
  if (!vocabulary.value().is_array()) vocabulary.fail("must be an array of pairs: a token and its score");
  const std::size_t count = vocabulary.value().size();
  if (count > static_cast<std::size_t>(kMaxTokenId)) vocabulary.fail(fmt::format("has {} tokens", count));
  TokenTable tokens;
  std::vector<double> scores;
  std::size_t bytes = 0;
  for (std::size_t id = 0; id < count; ++id) {
    const nlohmann::json& pair = vocabulary.value()[id];
    if (!pair.is_array() || pair.size() != 2 || !pair[0].is_string() || !pair[1].is_number()) {
      vocabulary.item(id).fail("must be a pair of a token and its score");
    }
    const auto& token = pair[0].get_ref<const std::string&>();
    if (!tokens.add(token, static_cast<std::int32_t>(id))) {
      vocabulary.item(id).fail(fmt::format("the token \"{}\" is there twice", token));
    }
    if (token.size() > kMaxTokenBytes)
      vocabulary.item(id).fail(fmt::format("has a token of more than {} bytes", kMaxTokenBytes));
    bytes += token.size();
    if (bytes > kMaxVocabularyBytes)
      vocabulary.fail(fmt::format("has more than {} bytes of tokens", kMaxVocabularyBytes));
    scores.push_back(pair[1].is_number_float() ? score_as_read(pair[1].get<double>()) : pair[1].get<double>());
  }
  UnigramOptions options;
  options.byte_fallback = node.flag_or("byte_fallback", false);
  if (const auto unk = node.find("unk_id")) {
    options.unk_id = static_cast<std::int32_t>(unk->integer(0, static_cast<std::int64_t>(count) - 1));
  }
  return std::make_unique<Unigram>(options, std::move(tokens), std::move(scores));
}

}  // namespace qlora
