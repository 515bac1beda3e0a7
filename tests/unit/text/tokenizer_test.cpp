// Encoding and decoding with small tokenizers whose every token is known.
#include "qlora/text/tokenizer.h"

#include <random>

#include "qlora/text/tokenizer/regex.h"
#include "qlora/text/tokenizer/split_pattern.h"
#include "qlora/text/tokenizer/unicode.h"

#include "text/tokenizer_fixture.h"

namespace qlora {
namespace {

using TokenizerTest = TokenizerFixture;

std::vector<std::pair<std::size_t, std::size_t>> spans_of(const Encoding& encoding) {
  std::vector<std::pair<std::size_t, std::size_t>> out;
  for (const ByteSpan& span : encoding.spans) out.emplace_back(span.begin, span.end);
  return out;
}
using Spans = std::vector<std::pair<std::size_t, std::size_t>>;

TEST_F(TokenizerTest, MergesByRankLeftmostFirst) {
  const auto tokenizer = load(byte_level({{"a", "b"}, {"b", "c"}, {"ab", "c"}, {"a", "a"}}));
  EXPECT_EQ(tokens(*tokenizer, "abc"), Texts({"abc"}));
  EXPECT_EQ(tokens(*tokenizer, "bcab"), Texts({"bc", "ab"}));
  EXPECT_EQ(tokens(*tokenizer, "aaa"), Texts({"aa", "a"}));
  EXPECT_EQ(tokens(*tokenizer, "aaab"), Texts({"aa", "ab"}));
}

TEST_F(TokenizerTest, LongWordsMergeAsShortOnesDo) {
  const auto tokenizer = load(byte_level({{"a", "b"}, {"b", "c"}, {"ab", "c"}, {"abc", "abc"}, {"c", "a"}}));
  std::string text;
  for (int i = 0; i < 40; ++i) text += "abc";
  EXPECT_EQ(tokens(*tokenizer, text), Texts(20, "abcabc"));
}

TEST_F(TokenizerTest, RawBytesGiveWhatPrintableCharactersGive) {
  nlohmann::json document = byte_level({{"Ġ", "t"}, {"t", "h"}, {"Ġt", "h"}, {"Ã", "©"}, {"Ċ", "Ċ"}, {"e", "r"}});
  document["model"]["ignore_merges"] = true;
  const auto raw = load(document), printable = load(document, false);
  std::mt19937 random(5);
  const Texts parts = {"the", " th", "é", "日本", "\n\n", "\xff", "er", "🙂", " ", "'s", "12"};
  for (int i = 0; i < 300; ++i) {
    std::string text;
    for (int k = 0; k < 8; ++k) text += parts[random() % parts.size()];
    const Encoding a = raw->encode(text, false), b = printable->encode(text, false);
    ASSERT_EQ(a.ids, b.ids) << text;
    ASSERT_EQ(spans_of(a), spans_of(b)) << text;
    ASSERT_EQ(raw->decode(a.ids, false), replace_invalid_utf8(text));
  }
}

TEST_F(TokenizerTest, BothSpellingsOfMergesAreRead) {
  nlohmann::json document = byte_level({{"a", "b"}, {"ab", "c"}});
  const auto pairs = load(document);
  document["model"]["merges"] = {"#version: 0.2", "a b", "ab c"};
  const auto strings = load(document);
  EXPECT_EQ(pairs->encode("abcab", false).ids, strings->encode("abcab", false).ids);
}

TEST_F(TokenizerTest, IgnoreMergesTakesAWholeWord) {
  nlohmann::json document = byte_level({{"a", "b"}});
  document["model"]["vocab"]["abc"] = 257;
  EXPECT_EQ(tokens(*load(document), "abc"), Texts({"ab", "c"}));
  document["model"]["ignore_merges"] = true;
  EXPECT_EQ(tokens(*load(document), "abc"), Texts({"abc"}));
}

TEST_F(TokenizerTest, UnknownCharactersFallBackToBytesAndBack) {
  const auto tokenizer = load(byte_fallback());
  EXPECT_EQ(tokens(*tokenizer, "ab é"), Texts({"▁ab", "▁", "<0xC3>", "<0xA9>"}));
  const Encoding encoding = tokenizer->encode("ab é", false);
  EXPECT_EQ(tokenizer->decode(encoding.ids, false), "ab é");
  EXPECT_EQ(tokenizer->decode(std::vector<std::int32_t>{8 + 0xC3, 1}, false), "\uFFFDa");
  EXPECT_TRUE(tokenizer->is_byte(8 + 0xC3));
  EXPECT_FALSE(tokenizer->is_byte(1));
}

TEST_F(TokenizerTest, UnknownCharactersFuseWhereAsked) {
  nlohmann::json document = byte_fallback();
  document["model"]["byte_fallback"] = false;
  EXPECT_EQ(load(document)->encode("xyb", false).ids, std::vector<std::int32_t>({4, 0, 2}));
  document["model"]["fuse_unk"] = false;
  EXPECT_EQ(load(document)->encode("xyb", false).ids, std::vector<std::int32_t>({4, 0, 0, 2}));
}

TEST_F(TokenizerTest, SpansNameBytesOfTheInput) {
  nlohmann::json document = byte_level({{"Ã", "©"}});
  document["normalizer"] = {{"type", "NFC"}};
  const auto composed = load(document);
  EXPECT_EQ(spans_of(composed->encode("ae\u0301b", false)), Spans({{0, 1}, {1, 4}, {4, 5}}));
  EXPECT_EQ(spans_of(composed->encode("日", false)), Spans({{0, 1}, {1, 2}, {2, 3}}));
  EXPECT_EQ(spans_of(composed->encode("a\xff\xfe", false)).size(), 7U);
  EXPECT_EQ(spans_of(composed->encode("a\xff\xfe"
                                      "b",
                                      false))
                .back(),
            (std::pair<std::size_t, std::size_t>(3, 4)));
  const auto marked = load(byte_fallback());
  EXPECT_EQ(spans_of(marked->encode("ab c", false)), Spans({{0, 2}, {2, 3}, {3, 4}}));
}

TEST_F(TokenizerTest, TemplateAddsSpecialTokensOnlyWhenAsked) {
  nlohmann::json document = byte_level({});
  document["added_tokens"] = {added(256, "<s>"), added(257, "</s>")};
  document["post_processor"] = parsed(R"({"type": "Sequence", "processors": [
    {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
    {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
      {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}], "pair": [],
     "special_tokens": {"<s>": {"id": "<s>", "ids": [256], "tokens": ["<s>"]},
                        "</s>": {"id": "</s>", "ids": [257], "tokens": ["</s>"]}}}]})");
  const auto tokenizer = load(document);
  const Encoding framed = tokenizer->encode("ab", true);
  EXPECT_EQ(framed.ids.front(), 256);
  EXPECT_EQ(framed.ids.back(), 257);
  EXPECT_EQ(spans_of(framed), Spans({{0, 0}, {0, 1}, {1, 2}, {2, 2}}));
  EXPECT_EQ(tokenizer->encode("ab", false).ids.size(), 2U);
  EXPECT_EQ(tokenizer->encode("a<s>", false).ids.back(), 256);
  EXPECT_EQ(tokenizer->decode(framed.ids, true), "ab");
  EXPECT_EQ(tokenizer->decode(framed.ids, false), "<s>ab</s>");
  EXPECT_TRUE(tokenizer->is_special(256));
  EXPECT_FALSE(tokenizer->is_special(1));
  EXPECT_EQ(tokenizer->vocabulary_size(), 258);
}

TEST_F(TokenizerTest, AddedTokensStripAndKeepToWords) {
  nlohmann::json document = byte_level({});
  const auto with = [&](const char* option) {
    nlohmann::json token = added(256, "XY");
    if (*option != '\0') token[option] = true;
    document["added_tokens"] = {token};
    return spans_of(load(document)->encode("a XY bXY", false));
  };
  EXPECT_EQ(with(""), Spans({{0, 1}, {1, 2}, {2, 4}, {4, 5}, {5, 6}, {6, 8}}));
  EXPECT_EQ(with("lstrip"), Spans({{0, 1}, {1, 4}, {4, 5}, {5, 6}, {6, 8}}));
  EXPECT_EQ(with("rstrip"), Spans({{0, 1}, {1, 2}, {2, 5}, {5, 6}, {6, 8}}));
  EXPECT_EQ(with("single_word"), Spans({{0, 1}, {1, 2}, {2, 4}, {4, 5}, {5, 6}, {6, 7}, {7, 8}}));
}

TEST_F(TokenizerTest, NormalizedAddedTokensAreFoundInNormalizedText) {
  nlohmann::json document = byte_level({});
  document["normalizer"] = {{"type", "Lowercase"}};
  document["added_tokens"] = {added(256, "Day"), added(257, "DAY!")};
  document["added_tokens"][0]["normalized"] = true;
  EXPECT_EQ(load(document)->encode("dAyDAY!", false).ids, std::vector<std::int32_t>({256, 257}));
}

TEST_F(TokenizerTest, TheLongestAddedTokenWins) {
  nlohmann::json document = byte_level({});
  document["added_tokens"] = {added(256, "<a"), added(257, "<a>"), added(258, "a>b")};
  EXPECT_EQ(load(document)->encode("<a>b", false).ids.front(), 257);
}

TEST_F(TokenizerTest, StreamsWholeCharactersOnly) {
  for (const auto& document : {byte_level({}), byte_fallback()}) {
    const auto tokenizer = load(document);
    for (const std::string text : {"a é 日本 🙂 b", "🙂🙂", " a", "\xff\xe2\x82 x"}) {
      const std::vector<std::int32_t> ids = tokenizer->encode(text, false).ids;
      DecodeStream stream(*tokenizer, false);
      std::string whole;
      for (const std::int32_t id : ids) {
        const std::string piece = stream.push(id);
        EXPECT_EQ(find_invalid_utf8(piece), piece.size());
        whole += piece;
      }
      whole += stream.finish();
      EXPECT_EQ(whole, tokenizer->decode(ids, false));
    }
  }
  const auto tokenizer = load(byte_level({}));
  DecodeStream stream(*tokenizer, false);
  const std::vector<std::int32_t> face = tokenizer->encode("🙂", false).ids;
  for (int i = 0; i < 3; ++i) EXPECT_EQ(stream.push(face[static_cast<std::size_t>(i)]), "");
  EXPECT_EQ(stream.push(face[3]), "🙂");
}

TEST_F(TokenizerTest, BatchesAreTheSingleOnesInOrder) {
  const auto tokenizer = load(byte_level({{"a", "b"}}));
  std::vector<std::string> texts;
  texts.reserve(200);
  for (int i = 0; i < 200; ++i) texts.push_back("ab " + std::to_string(i));
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  const std::vector<Encoding> batch = tokenizer->encode_batch(views, true);
  ASSERT_EQ(batch.size(), texts.size());
  for (std::size_t i = 0; i < texts.size(); ++i) EXPECT_EQ(batch[i].ids, tokenizer->encode(texts[i], true).ids);
}

TEST_F(TokenizerTest, AnIdOutsideTheVocabularyIsDataError) {
  const auto tokenizer = load(byte_level({}));
  EXPECT_THROW(tokenizer->decode(std::vector<std::int32_t>{256}, false), DataError);
  EXPECT_THROW(tokenizer->decode(std::vector<std::int32_t>{-1}, false), DataError);
}

TEST_F(TokenizerTest, TheFingerprintFollowsTheFile) {
  const auto a = load(byte_level({})), b = load(byte_level({})), c = load(byte_level({{"a", "b"}}));
  EXPECT_EQ(a->fingerprint(), b->fingerprint());
  EXPECT_NE(a->fingerprint(), c->fingerprint());
}

TEST_F(TokenizerTest, SpecialTokensFollowTransformersPrecedence) {
  nlohmann::json document = byte_level({});
  document["added_tokens"] = {added(256, "<s>"), added(257, "</s>"), added(258, "<end>")};
  const auto tokenizer = load(document);
  write("config.json", R"({"bos_token_id": 256, "eos_token_id": 257})");
  SpecialTokens special = load_special_tokens(folder_, *tokenizer);
  EXPECT_EQ(special.bos, "<s>");
  EXPECT_EQ(special.eos, "</s>");
  EXPECT_EQ(special.pad, std::nullopt);
  EXPECT_EQ(special.stop_ids, std::vector<std::int32_t>({257}));
  write("generation_config.json", R"({"eos_token_id": [258, 257]})");
  write("tokenizer_config.json", R"({"eos_token": "</s>", "bos_token": null})");
  write("special_tokens_map.json", R"({"eos_token": {"content": "<end>"}})");
  special = load_special_tokens(folder_, *tokenizer);
  EXPECT_EQ(special.eos, "<end>");
  EXPECT_EQ(special.stop_ids, std::vector<std::int32_t>({258, 257}));
  write("tokenizer_config.json", R"({"eos_token": "</s>", "added_tokens_decoder": {}})");
  EXPECT_EQ(load_special_tokens(folder_, *tokenizer).eos, "</s>");
}

// Llama 2's first tokenizer.json: "</s>" is normalized, and so found behind the prefix alone.
TEST_F(TokenizerTest, InAModelsFolderSpecialTokensAreFoundEverywhere) {
  nlohmann::json document = byte_level({});
  document["added_tokens"] = {added(256, "</s>")};
  document["added_tokens"][0]["normalized"] = true;
  document["normalizer"] = {{"type", "Prepend"}, {"prepend", "_"}};
  const auto file = write("tokenizer.json", document.dump());
  const auto ids = [](const Tokenizer& tokenizer, const char* text) { return tokenizer.encode(text, false).ids; };
  const auto alone = Tokenizer::load_file(file), in_folder = Tokenizer::load(folder_);
  EXPECT_EQ(ids(*alone, "</s>"), ids(*in_folder, "</s>"));
  EXPECT_EQ(ids(*alone, "a</s>").size(), 6U);
  EXPECT_EQ(ids(*in_folder, "a</s>"), std::vector<std::int32_t>({'_', 'a', 256}));
  EXPECT_EQ(ids(*in_folder, "a</s>b"), std::vector<std::int32_t>({'_', 'a', 256, 'b'}));
}

TEST_F(TokenizerTest, LoadChoosesByWhatTheFolderHolds) {
  EXPECT_THROW(Tokenizer::load(folder_), DataError);
  write("tokenizer.model", "IQ== 0\nIg== 1\n");
  EXPECT_THROW(Tokenizer::load(folder_), DataError);  // a vocabulary of two ranks
  write("tokenizer.json", byte_level({}).dump());
  EXPECT_EQ(Tokenizer::load(folder_)->encode("ab", false).ids.size(), 2U);
}

// The scanners and the regular expressions that they stand for.
class KnownPatternTest : public ::testing::TestWithParam<KnownPattern> {};

TEST_P(KnownPatternTest, ScansAsItsRegularExpressionMatches) {
  const Regex regex(pattern_text(GetParam()));
  const Texts parts = {"a",      "Zé",   "日",      "1",     "٣",  "½",          " ",      "\u00a0", "\u3000",
                       "\u180e", "\n",   "\r\n",    "\t",    "'",  "'s",         "'S",     "'re",    "'VE",
                       "'l",     "'ll",  "'\u017f", ".",     "!?", "🙂",       "\u0301", "\u200d", "'\u00e9",
                       "\x0b",   "\x85", "\u2028",  "12345", "_",  "\U0001F1E6", "\u0e33", "’s"};
  std::mt19937 random(11);
  for (int i = 0; i < 20000; ++i) {
    std::string text;
    const std::size_t count = 1 + random() % 9;
    for (std::size_t k = 0; k < count; ++k) text += parts[random() % parts.size()];
    text = replace_invalid_utf8(text);
    std::vector<TextPiece> scanned, matched;
    scan_known_pattern(GetParam(), text, 7, scanned);
    append_pieces(split_by_regex(regex, text), SplitBehavior::kIsolated, 7, matched);
    ASSERT_EQ(scanned.size(), matched.size()) << text;
    for (std::size_t k = 0; k < scanned.size(); ++k) {
      ASSERT_EQ(scanned[k].begin, matched[k].begin) << text;
      ASSERT_EQ(scanned[k].end, matched[k].end) << text;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, KnownPatternTest,
                         ::testing::Values(KnownPattern::kGpt2, KnownPattern::kQwen2, KnownPattern::kLlama3));

TEST(Utf8, IllFormedSequencesBecomeOneReplacementEach) {
  EXPECT_EQ(replace_invalid_utf8("a\xe2\x82z"), "a\uFFFDz");
  EXPECT_EQ(replace_invalid_utf8("\xed\xa0\x80"), "\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(replace_invalid_utf8("\xf0\x9f\x98"), "\uFFFD");
  EXPECT_EQ(replace_invalid_utf8("\xc0\xaf\xf5"), "\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(replace_invalid_utf8("é日🙂"), "é日🙂");
}

}  // namespace
}  // namespace qlora
