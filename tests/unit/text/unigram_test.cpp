// Unigram models, the map of characters that goes with them, and vocabularies by rank.
#include <gmock/gmock.h>

#include "qlora/text/tokenizer/base64.h"
#include "qlora/text/tokenizer/prefix_trie.h"

#include "text/tokenizer_fixture.h"

namespace qlora {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

class UnigramTest : public TokenizerFixture {
 protected:
  using Scores = std::vector<std::pair<std::string, double>>;
  static nlohmann::json unigram(const Scores& vocab) {
    nlohmann::json document = {{"version", "1.0"}, {"added_tokens", nlohmann::json::array()}};
    document["model"] = {{"type", "Unigram"}, {"unk_id", 0}, {"vocab", nlohmann::json::array()}};
    for (const auto& [token, score] : vocab)
      document["model"]["vocab"].push_back(nlohmann::json::array({token, score}));
    return document;
  }
  static Scores letters() {
    return {{"<unk>", 0}, {"a", -1.0}, {"b", -1.5}, {"ab", -2.25}, {"abc", -8.0}, {"bc", -2.0}, {"c", -3.0}};
  }
};

TEST_F(UnigramTest, TheLargestSumWins) {
  const auto tokenizer = load(unigram(letters()));
  EXPECT_EQ(tokens(*tokenizer, "ab"), Texts({"ab"}));
  EXPECT_EQ(tokens(*tokenizer, "abc"), Texts({"a", "bc"}));  // -3 before -5.25 and -8
  EXPECT_EQ(tokens(*tokenizer, "aab"), Texts({"a", "ab"}));
}

TEST_F(UnigramTest, OfEqualSumsTheLongestLastTokenWins) {
  const auto tokenizer = load(unigram({{"<unk>", 0}, {"a", -1.0}, {"aa", -2.0}}));
  EXPECT_EQ(tokens(*tokenizer, "aaa"), Texts({"a", "aa"}));
}

TEST_F(UnigramTest, UnknownNeighboursAreOneToken) {
  const auto tokenizer = load(unigram(letters()));
  const Encoding encoding = tokenizer->encode("axyb", false);
  EXPECT_EQ(encoding.ids, std::vector<std::int32_t>({1, 0, 2}));
  EXPECT_EQ(encoding.spans[1].begin, 1U);
  EXPECT_EQ(encoding.spans[1].end, 3U);
}

TEST_F(UnigramTest, UnknownNeighboursBecomeBytesWhereAllAreTokens) {
  Scores vocab = letters();
  for (const char* byte : {"<0xC3>", "<0xA9>"}) vocab.emplace_back(byte, -20.0);
  nlohmann::json document = unigram(vocab);
  document["model"]["byte_fallback"] = true;
  const auto tokenizer = load(document);
  EXPECT_EQ(tokens(*tokenizer, "a\xC3\xA9"), Texts({"a", "<0xC3>", "<0xA9>"}));
  EXPECT_EQ(tokens(*tokenizer, "a\xC3\xA8"), Texts({"a", "<unk>"}));
}

TEST_F(UnigramTest, FilesThatAreNoModelsAreRefused) {
  EXPECT_THAT(refusal(unigram({{"a", 0}, {"a", 1}})), AllOf(HasSubstr("model.vocab[1]"), HasSubstr("twice")));
  EXPECT_THAT(refusal(unigram({})), HasSubstr("model.unk_id"));
  EXPECT_THAT(refusal(unigram({{"a", 0}, {std::string(2000, 'a'), 1}})),
              HasSubstr("model.vocab[1]: has a token of more"));
  nlohmann::json document = unigram(letters());
  document["model"]["vocab"][2] = "c";
  EXPECT_THAT(refusal(document), HasSubstr("model.vocab[2]"));
  document = unigram(letters());
  document["model"].erase("unk_id");
  EXPECT_THROW(load(document)->encode("x", false), DataError);
}

// "a" becomes "bc", and "\xC3\xA9" nothing: a double-array trie of 512 units, written by hand.
std::string character_map() {
  std::vector<std::uint32_t> units(512);
  const auto offset = [](std::uint32_t to) { return to << 10; };
  constexpr std::uint32_t kLeaf = 1U << 8, kValue = 1U << 31;
  units[0] = offset(0x100);
  units[0x100 ^ 'a'] = offset(0x100 ^ 'a' ^ 0x04) | kLeaf | 'a';
  units[0x04] = kValue | 0;
  units[0x100 ^ 0xC3] = offset(0x100 ^ 0xC3 ^ 0xB0) | 0xC3;
  units[0xB0 ^ 0xA9] = offset(0xB0 ^ 0xA9 ^ 0x05) | kLeaf | 0xA9;
  units[0x05] = kValue | 3;
  std::string bytes;
  const auto put = [&](std::uint32_t value) {
    for (int shift = 0; shift < 32; shift += 8) bytes.push_back(static_cast<char>(value >> shift & 0xFF));
  };
  put(2048);
  for (const std::uint32_t unit : units) put(unit);
  return bytes + std::string("bc\0\0", 4);
}

std::string base64(const std::string& bytes) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (std::size_t at = 0; at < bytes.size(); at += 3) {
    std::uint32_t bits = 0;
    for (std::size_t i = 0; i < 3; ++i) {
      bits = bits << 8 | (at + i < bytes.size() ? static_cast<unsigned char>(bytes[at + i]) : 0U);
    }
    for (std::size_t i = 0; i < 4; ++i) {
      out.push_back(at + i > bytes.size() ? '=' : kDigits[bits >> (18 - 6 * i) & 63]);
    }
  }
  return out;
}

TEST_F(UnigramTest, ThePrecompiledMapReplacesCharactersAndShortClusters) {
  nlohmann::json document = byte_level({});
  document["normalizer"] = {{"type", "Precompiled"}, {"precompiled_charsmap", base64(character_map())}};
  const auto tokenizer = load(document);
  const auto normal = [&](const char* text) { return tokenizer->decode(tokenizer->encode(text, false).ids, false); };
  EXPECT_EQ(normal("xay"), "xbcy");
  EXPECT_EQ(normal("x\xC3\xA9y"), "xy");
  EXPECT_EQ(normal("a\xCC\x81y"), "bcy");  // a cluster is replaced for what it starts with
  EXPECT_EQ(normal("a\xCC\x81\xCC\x81\xCC\x81"), "bc\xCC\x81\xCC\x81\xCC\x81");  // a long one by characters
  document["normalizer"]["precompiled_charsmap"] = "!";
  EXPECT_THAT(refusal(document), HasSubstr("normalizer.precompiled_charsmap"));
  document["normalizer"]["precompiled_charsmap"] = base64(std::string("\xFF\xFF\0\0", 4));
  EXPECT_THAT(refusal(document), HasSubstr("too short"));
  document["normalizer"]["precompiled_charsmap"] = base64(std::string(4, '\0') + std::string(2000, 'a'));
  EXPECT_THAT(refusal(document), HasSubstr("a replacement of more than 1024 bytes"));
}

class RankedVocabularyTest : public TokenizerFixture {
 protected:
  // Bytes, then "ab", "bc", "abc", then `more` tokens of no use.
  static std::vector<std::string> ranks(int more) {
    std::vector<std::string> out;
    out.reserve(259 + static_cast<std::size_t>(more));
    for (int byte = 0; byte < 256; ++byte) out.emplace_back(1, static_cast<char>(byte));
    for (const char* token : {"ab", "bc", "abc"}) out.emplace_back(token);
    for (int i = 0; i < more; ++i) out.push_back("\xFF\xFF\xFF" + std::to_string(i));
    return out;
  }
  static std::string tiktoken(int more) {
    std::string text;
    int rank = 0;
    for (const std::string& token : ranks(more)) text += base64(token) + " " + std::to_string(rank++) + "\n";
    return text;
  }
  static nlohmann::json tekken() {
    nlohmann::json document = {
        {"config", {{"pattern", "\\w+|\\W+"}, {"default_vocab_size", 281}, {"default_num_special_tokens", 22}}}};
    int rank = 0;
    for (const std::string& token : ranks(5)) {
      document["vocab"].push_back({{"rank", rank++}, {"token_bytes", base64(token)}, {"token_str", nullptr}});
    }
    return document;
  }
};

TEST_F(RankedVocabularyTest, TekkenStartsWithItsSpecialTokens) {
  write("folder/tekken.json", tekken().dump());
  const auto tokenizer = Tokenizer::load(folder_ / "folder");
  EXPECT_EQ(tokenizer->encode("abc bc[INST]", true).ids,
            std::vector<std::int32_t>({1, 22 + 258, 22 + ' ', 22 + 257, 3}));
  EXPECT_EQ(tokenizer->token_of(21), "<SPECIAL_21>");
  EXPECT_EQ(tokenizer->vocabulary_size(), 281);
  EXPECT_EQ(tokenizer->decode(std::vector<std::int32_t>({1, 280, 3}), true), "abc");
  EXPECT_EQ(tokenizer->decode(std::vector<std::int32_t>({1, 280, 3}), false), "<s>abc[INST]");
  write("folder/added_tokens.json", R"({"<own>": 281})");
  EXPECT_EQ(Tokenizer::load(folder_ / "folder")->encode("a<own>[INST]", false).ids,
            std::vector<std::int32_t>({22 + 'a', 281, 3}));
  const auto alone = Tokenizer::load_file(folder_ / "folder/tekken.json");
  EXPECT_EQ(alone->encode("<s>", true).ids, std::vector<std::int32_t>({1, 22 + '<', 22 + 's', 22 + '>'}));
}

TEST_F(RankedVocabularyTest, TekkenFilesMustBeWhole) {
  const auto complaint = [&](const nlohmann::json& document) -> std::string {
    try {
      Tokenizer::load_file(write("tekken.json", document.dump()));
    } catch (const DataError& error) {
      return error.what();
    }
    return "it was read";
  };
  nlohmann::json document = tekken();
  document["vocab"][7]["rank"] = 8;
  EXPECT_THAT(complaint(document), HasSubstr("vocab[7].rank"));
  document = tekken();
  document["vocab"][7]["token_bytes"] = "YQ==";
  EXPECT_THAT(complaint(document), HasSubstr("vocab[97]: is there twice"));
  document = tekken();
  document["config"]["default_vocab_size"] = 100000;
  EXPECT_THAT(complaint(document), HasSubstr("at least 99978 tokens"));
  document["config"]["default_vocab_size"] = 100;
  EXPECT_THAT(complaint(document), HasSubstr("no token for the byte"));
}

TEST_F(RankedVocabularyTest, Llama3sFileHasItsPatternAndSpecialTokens) {
  write("folder/tokenizer.model", tiktoken(128000 - 259));
  const auto tokenizer = Tokenizer::load(folder_ / "folder");
  EXPECT_EQ(tokenizer->encode("abcbc<|eot_id|>", true).ids, std::vector<std::int32_t>({128000, 258, 257, 128009}));
  EXPECT_EQ(tokenizer->vocabulary_size(), 128256);
  EXPECT_EQ(tokenizer->token_of(128255), "<|reserved_special_token_247|>");
  write("folder/tokenizer_config.json",
        R"({"add_bos_token": false, "added_tokens_decoder": {"128001": {"content": "<own>", "special": true}}})");
  EXPECT_EQ(Tokenizer::load(folder_ / "folder")->encode("a<own><|eot_id|>", true).ids,
            std::vector<std::int32_t>({'a', 128001, 128009}));
}

TEST_F(RankedVocabularyTest, UnknownVocabulariesSayWhatToDo) {
  const auto complaint = [&](const std::string& text) -> std::string {
    try {
      Tokenizer::load_file(write("x.tiktoken", text));
    } catch (const DataError& error) {
      return error.what();
    }
    return "it was read";
  };
  EXPECT_THAT(complaint(tiktoken(0)), AllOf(HasSubstr("259 ranks"), HasSubstr("tokenizer.json")));
  EXPECT_THAT(complaint("YQ== 0\nYg== x\n"), HasSubstr("x.tiktoken:2:"));
  EXPECT_THAT(complaint("YQ== 0\nYg 1\n"), HasSubstr("line 2: is no base64"));
  EXPECT_THAT(complaint("YQ== 0\nYg== 99999999999\n"), HasSubstr("line 2"));
}

TEST(PrefixTrie, VisitsEveryPrefixTheShortestFirst) {
  const PrefixTrie trie({{"b", 0}, {"abc", 1}, {"a", 2}, {"ab\xFF", 3}, {"", 4}});
  const auto prefixes = [&](std::string_view text) {
    std::vector<std::pair<std::size_t, std::int32_t>> out;
    trie.for_each_prefix(text, [&](std::size_t bytes, std::int32_t value) { out.emplace_back(bytes, value); });
    return out;
  };
  EXPECT_THAT(prefixes("abcd"), ElementsAre(Pair(1, 2), Pair(3, 1)));
  EXPECT_THAT(prefixes("ab\xFF"), ElementsAre(Pair(1, 2), Pair(3, 3)));
  EXPECT_THAT(prefixes("xa"), ElementsAre());
  EXPECT_THAT(prefixes(""), ElementsAre());
}

TEST(Base64, ReadsWholeTextsOnly) {
  EXPECT_EQ(decode_base64("").value(), "");
  EXPECT_EQ(decode_base64("AP9h").value(), std::string("\0\xFF"
                                                       "a",
                                                       3));
  EXPECT_EQ(decode_base64("YWI=").value(), "ab");
  EXPECT_EQ(decode_base64("YQ==").value(), "a");
  for (const char* bad : {"Y", "YW", "YWI", "Y!==", "=YWI", "===="}) EXPECT_FALSE(decode_base64(bad)) << bad;
}

}  // namespace
}  // namespace qlora
