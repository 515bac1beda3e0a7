#include "qlora/text/tokenizer/tiktoken.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <vector>

#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/core/hash.h"
#include "qlora/text/tokenizer/base64.h"
#include "qlora/text/tokenizer/bpe.h"
#include "qlora/text/tokenizer/byte_characters.h"
#include "qlora/text/tokenizer/json_tokenizer.h"
#include "qlora/text/tokenizer/split_pattern.h"

namespace qlora {
namespace {

// What a vocabulary is beside its tokens.
struct Vocabulary {
  std::string pattern;
  bool composes = false;                                     // texts are brought to NFC
  std::map<std::int32_t, VocabularyOptions::Added> special;  // by id
  std::string bos, eos;                                      // "" for none
};

// Tokens as bytes and their ids, with the merges that make them.
class RankedTokens {
 public:
  explicit RankedTokens(std::string file) : file_(std::move(file)) {}

  std::int32_t size() const { return by_bytes_.size(); }

  // `where` names the token in complaints.
  void add(std::string_view base64, std::int64_t id, const std::string& where) {
    const auto bytes = decode_base64(base64);
    if (!bytes || bytes->empty()) fail(where, "is no base64 of a token");
    if (bytes->size() > kMaxTokenBytes) fail(where, fmt::format("has more than {} bytes", kMaxTokenBytes));
    if (id < 0 || id > kMaxTokenId) fail(where, fmt::format("has the rank {}; ranks are 0 to {}", id, kMaxTokenId));
    std::string characters;
    for (const char c : *bytes) characters += byte_characters()[static_cast<unsigned char>(c)];
    const auto token = static_cast<std::int32_t>(id);
    if (!by_bytes_.add(*bytes, token) || !by_characters_.add(characters, token)) fail(where, "is there twice");
  }

  std::unique_ptr<TokenModel> make_model() && {
    for (int byte = 0; byte < 256; ++byte) {
      const char text = static_cast<char>(byte);
      if (!by_bytes_.id_of({&text, 1}))
        throw DataError(fmt::format("{}: has no token for the byte {}: it is not whole, fetch it anew", file_, byte));
    }
    // A token may come about from any two others that make up its bytes.
    struct Pair {
      std::int32_t left, right, whole;
    };
    std::vector<Pair> pairs;
    for (std::int32_t id = 0; id <= by_bytes_.max_id(); ++id) {
      const std::string_view token = by_bytes_.text_of(id).value_or("");
      for (std::size_t cut = 1; cut < token.size(); ++cut) {
        const auto left = by_bytes_.id_of(token.substr(0, cut));
        const auto right = left ? by_bytes_.id_of(token.substr(cut)) : std::nullopt;
        if (right) pairs.push_back({*left, *right, id});
      }
    }
    MergeTable merges(pairs.size());
    for (const Pair& pair : pairs) {
      merges.set(pair.left, pair.right, {static_cast<std::uint32_t>(pair.whole), pair.whole});
    }
    BpeOptions options;
    options.ignore_merges = true;
    return std::make_unique<Bpe>(std::move(options), std::move(by_characters_), std::move(merges));
  }

 private:
  [[noreturn]] void fail(const std::string& where, const std::string& what) const {
    throw DataError(fmt::format("{}: {}: {}", file_, where, what));
  }

  std::string file_;
  TokenTable by_bytes_, by_characters_;
};

// What a tokenizer.json would say of the vocabulary, beside its model.
nlohmann::json describe(const Vocabulary& vocabulary, const VocabularyOptions& options) {
  nlohmann::json root = nlohmann::json::parse(R"({
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
      {"type": "Split", "behavior": "Isolated", "invert": false},
      {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false}]},
    "decoder": {"type": "ByteLevel"}, "added_tokens": [],
    "post_processor": {"type": "TemplateProcessing", "single": [], "special_tokens": {}}})");
  root["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = vocabulary.pattern;
  if (vocabulary.composes) root["normalizer"]["type"] = "NFC";
  nlohmann::json& frame = root["post_processor"];
  const auto place = [&](const std::string& content) {
    for (const auto& [id, token] : vocabulary.special) {
      if (token.content != content) continue;
      frame["single"].push_back({{"SpecialToken", {{"id", content}}}});
      frame["special_tokens"][content]["ids"] = {id};
    }
  };
  if (options.add_bos) place(vocabulary.bos);
  frame["single"].push_back({{"Sequence", {{"id", "A"}}}});
  if (options.add_eos) place(vocabulary.eos);
  for (const auto& [id, token] : vocabulary.special) {
    root["added_tokens"].push_back({{"id", id},
                                    {"content", token.content},
                                    {"single_word", false},
                                    {"lstrip", false},
                                    {"rstrip", false},
                                    {"normalized", false},
                                    {"special", token.special}});
  }
  return root;
}

std::unique_ptr<Tokenizer> assemble(RankedTokens tokens, Vocabulary vocabulary, const VocabularyOptions& options,
                                    const std::string& file, const std::string& bytes) {
  for (const auto& [id, token] : options.added) vocabulary.special[id] = token;
  const nlohmann::json root = describe(vocabulary, options);
  const AddedTokens::Rules rules = {.declared_ids = true, .found_in_text = options.special_everywhere};
  return JsonTokenizer::assemble(std::move(tokens).make_model(), JsonNode(root, file), {.added = rules},
                                 sha256(sha256(bytes) + root.dump()));
}

std::map<std::int32_t, VocabularyOptions::Added> by_id_from(std::int32_t first,
                                                            const std::vector<std::string>& contents) {
  std::map<std::int32_t, VocabularyOptions::Added> out;
  for (const std::string& content : contents) out[first++] = {content, true};
  return out;
}

std::vector<std::string> llama3_special_tokens() {
  constexpr std::string_view kReserved = "<|reserved_special_token_{}|>";
  std::vector<std::string> out = {"<|begin_of_text|>", "<|end_of_text|>"};
  int reserved = 0;
  for (const char* name : {"", "", "<|finetune_right_pad_id|>", "", "<|start_header_id|>", "<|end_header_id|>",
                           "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"}) {
    out.push_back(*name == '\0' ? fmt::format(kReserved, reserved++) : name);
  }
  while (out.size() < 256) out.push_back(fmt::format(kReserved, reserved++));
  return out;
}

std::vector<std::string> qwen_special_tokens() {
  std::vector<std::string> out = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  for (int i = 0; i < 205; ++i) out.push_back(fmt::format("<|extra_{}|>", i));
  return out;
}

Vocabulary known_vocabulary(std::int32_t ranks, const std::string& file) {
  if (ranks == 128000) {
    return {std::string(pattern_text(KnownPattern::kLlama3)), false, by_id_from(ranks, llama3_special_tokens()),
            "<|begin_of_text|>", "<|end_of_text|>"};
  }
  if (ranks == 151643) {
    return {std::string(pattern_text(KnownPattern::kQwen2)), true, by_id_from(ranks, qwen_special_tokens()), "",
            "<|endoftext|>"};
  }
  throw DataError(
      fmt::format("{}: a tiktoken vocabulary of {} ranks does not say how text is split; known are those "
                  "of Llama 3 (128000) and Qwen (151643). Put the model's tokenizer.json beside it",
                  file, ranks));
}

std::string_view next_line(std::string_view& rest) {
  const std::size_t end = std::min(rest.find('\n'), rest.size());
  std::string_view line = rest.substr(0, end);
  rest.remove_prefix(std::min(end + 1, rest.size()));
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

// The rank behind the space of a line; none where there is no such thing.
std::optional<std::int64_t> rank_of(std::string_view line, std::size_t space) {
  if (space == std::string_view::npos || space == 0) return std::nullopt;
  std::int64_t rank = 0;
  const char* end = line.data() + line.size();
  const auto [stop, error] = std::from_chars(line.data() + space + 1, end, rank);
  return error == std::errc() && stop == end ? std::optional(rank) : std::nullopt;
}

// The twenty that files without a list mean.
std::vector<std::string> first_tekken_special_tokens() {
  return {"<unk>",
          "<s>",
          "</s>",
          "[INST]",
          "[/INST]",
          "[AVAILABLE_TOOLS]",
          "[/AVAILABLE_TOOLS]",
          "[TOOL_RESULTS]",
          "[/TOOL_RESULTS]",
          "[TOOL_CALLS]",
          "[IMG]",
          "<pad>",
          "[IMG_BREAK]",
          "[IMG_END]",
          "[PREFIX]",
          "[MIDDLE]",
          "[SUFFIX]",
          "[SYSTEM_PROMPT]",
          "[/SYSTEM_PROMPT]",
          "[TOOL_CONTENT]"};
}

std::map<std::int32_t, VocabularyOptions::Added> tekken_special_tokens(const JsonNode& root, std::int32_t count) {
  std::vector<std::string> contents = first_tekken_special_tokens();
  if (const auto list = root.find("special_tokens")) {
    contents.clear();
    for (const JsonNode& token : list->items()) {
      token.at("rank").integer(static_cast<std::int64_t>(contents.size()), static_cast<std::int64_t>(contents.size()));
      contents.push_back(token.at("token_str").text());
    }
  }
  if (contents.size() > static_cast<std::size_t>(count)) {
    root.fail(
        fmt::format("has {} special tokens, and config.default_num_special_tokens is {}", contents.size(), count));
  }
  for (std::size_t i = contents.size(); i < static_cast<std::size_t>(count); ++i) {
    contents.push_back(fmt::format("<SPECIAL_{}>", i));
  }
  return by_id_from(0, contents);
}

}  // namespace

bool is_tiktoken(std::string_view bytes) {
  const std::string_view line = next_line(bytes);
  const std::size_t space = line.find(' ');
  return rank_of(line, space) && decode_base64(line.substr(0, space));
}

std::unique_ptr<Tokenizer> read_tiktoken(const std::filesystem::path& path, const VocabularyOptions& options) {
  const std::string file = path.string();
  const std::string bytes = read_tokenizer_bytes(path);
  RankedTokens tokens(file);
  std::string_view rest = bytes;
  for (std::size_t number = 1; !rest.empty(); ++number) {
    const std::string_view line = next_line(rest);
    if (line.empty()) continue;
    const std::size_t space = line.find(' ');
    const auto rank = rank_of(line, space);
    if (!rank) throw DataError(fmt::format("{}:{}: is no base64 token, space and rank", file, number));
    tokens.add(line.substr(0, space), *rank, fmt::format("line {}", number));
  }
  const Vocabulary vocabulary = known_vocabulary(tokens.size(), file);
  return assemble(std::move(tokens), vocabulary, options, file, bytes);
}

std::unique_ptr<Tokenizer> read_tekken(const std::filesystem::path& path, const VocabularyOptions& options) {
  const std::string file = path.string();
  const std::string bytes = read_tokenizer_bytes(path);
  const nlohmann::json document = parse_tokenizer_json(bytes, file);
  const JsonNode root(document, file);
  const JsonNode config = root.at("config");
  const std::int64_t special = config.at("default_num_special_tokens").integer(0, 1 << 16);
  const std::int64_t ranks = config.at("default_vocab_size").integer(special, kMaxTokenId) - special;
  const JsonNode list = root.at("vocab");
  if (!list.value().is_array() || list.value().size() < static_cast<std::size_t>(ranks)) {
    list.fail(fmt::format("must be an array of at least {} tokens", ranks));
  }
  RankedTokens tokens(file);
  for (std::int64_t rank = 0; rank < ranks; ++rank) {
    const JsonNode token = list.item(static_cast<std::size_t>(rank));
    token.at("rank").integer(rank, rank);
    tokens.add(token.at("token_bytes").text(), rank + special, token.path());
  }
  const Vocabulary vocabulary = {config.at("pattern").text(), false,
                                 tekken_special_tokens(root, static_cast<std::int32_t>(special)), "<s>", "</s>"};
  return assemble(std::move(tokens), vocabulary, options, file, bytes);
}

}  // namespace qlora
