// Files that are no tokenizers: each class of mistake is a DataError that names the file and the place.
#include <gmock/gmock.h>

#include "text/tokenizer_fixture.h"

namespace qlora {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class MalformedTokenizerTest : public TokenizerFixture {
 protected:
  // The refusal after `patch` (RFC 6902) of a good file.
  std::string patched(const char* patch) const {
    return refusal(byte_level({{"a", "b"}}).patch(nlohmann::json::parse(patch)));
  }
};

TEST_F(MalformedTokenizerTest, TruncatedJsonNamesLineAndColumn) {
  EXPECT_THAT(refusal(std::string("{\n\"version\": ")), AllOf(HasSubstr("tokenizer.json:2:"), HasSubstr("is no JSON")));
  EXPECT_THAT(refusal(std::string("")), HasSubstr("is no JSON"));
  EXPECT_THAT(refusal(std::string("[1]")), HasSubstr("must be an object"));
  EXPECT_THAT(refusal(std::string("{\"version\": \"\xff\"}")), HasSubstr("is no JSON"));
  EXPECT_THAT(refusal(std::string(200000, '[')), HasSubstr("is no JSON"));
}

TEST_F(MalformedTokenizerTest, AMissingFileIsNamed) {
  EXPECT_THROW(JsonTokenizer::read(folder_ / "none.json"), DataError);
  EXPECT_THROW(JsonTokenizer::read(folder_), DataError);
}

TEST_F(MalformedTokenizerTest, MissingAndMistypedFields) {
  EXPECT_THAT(patched(R"([{"op": "remove", "path": "/model"}])"), HasSubstr("\"model\" is missing"));
  EXPECT_THAT(patched(R"([{"op": "remove", "path": "/model/vocab"}])"), HasSubstr("model: \"vocab\" is missing"));
  EXPECT_THAT(patched(R"([{"op": "replace", "path": "/model/vocab", "value": []}])"), HasSubstr("model.vocab"));
  EXPECT_THAT(patched(R"([{"op": "replace", "path": "/model/merges", "value": {}}])"), HasSubstr("model.merges"));
  EXPECT_THAT(patched(R"([{"op": "add", "path": "/model/byte_fallback", "value": 1}])"),
              HasSubstr("must be true or false"));
  EXPECT_THAT(patched(R"([{"op": "add", "path": "/model/dropout", "value": 0.1}])"), HasSubstr("model.dropout"));
  EXPECT_THAT(patched(R"([{"op": "replace", "path": "/version", "value": "2.0"}])"), HasSubstr("version"));
  EXPECT_THAT(patched(R"([{"op": "remove", "path": "/pre_tokenizer/add_prefix_space"}])"),
              HasSubstr("pre_tokenizer: \"add_prefix_space\" is missing"));
  EXPECT_THAT(patched(R"([{"op": "replace", "path": "/added_tokens", "value": [{"id": 1}]}])"),
              HasSubstr("added_tokens[0]"));
}

TEST_F(MalformedTokenizerTest, UnknownPartsAreNamed) {
  EXPECT_THAT(patched(R"([{"op": "replace", "path": "/model/type", "value": "WordPiece"}])"),
              AllOf(HasSubstr("\"WordPiece\""), HasSubstr("known are BPE, Unigram")));
  EXPECT_THAT(patched(R"([{"op": "replace", "path": "/normalizer", "value": {"type": "Odd"}}])"),
              HasSubstr("normalizer.type"));
  EXPECT_THAT(
      patched(
          R"([{"op": "replace", "path": "/pre_tokenizer", "value": {"type": "Sequence", "pretokenizers": [{"type": "Odd"}]}}])"),
      HasSubstr("pre_tokenizer.pretokenizers[0].type"));
  EXPECT_THAT(patched(R"([{"op": "replace", "path": "/decoder/type", "value": "Odd"}])"), HasSubstr("decoder.type"));
  EXPECT_THAT(patched(R"([{"op": "replace", "path": "/post_processor", "value": {"type": "Odd"}}])"),
              HasSubstr("post_processor.type"));
}

TEST_F(MalformedTokenizerTest, IdsMustBeUniqueAndInRange) {
  EXPECT_THAT(patched(R"([{"op": "add", "path": "/model/vocab/zz", "value": 3}])"),
              HasSubstr("is taken by another token"));
  EXPECT_THAT(patched(R"([{"op": "add", "path": "/model/vocab/zz", "value": -1}])"), HasSubstr("must lie between"));
  EXPECT_THAT(patched(R"([{"op": "add", "path": "/model/vocab/zz", "value": 4294967296}])"),
              HasSubstr("model.vocab.zz"));
  EXPECT_THAT(patched(R"([{"op": "add", "path": "/model/vocab/zz", "value": 18446744073709551615}])"),
              HasSubstr("must lie between"));
  EXPECT_THAT(patched(R"([{"op": "add", "path": "/model/vocab/zz", "value": 1.5}])"), HasSubstr("must be an integer"));
  nlohmann::json document = byte_level({});
  document["added_tokens"] = {added(300, "<s>")};
  EXPECT_THAT(refusal(document), HasSubstr("next free id 256"));
  document["added_tokens"] = {added(7, "a")};
  EXPECT_THAT(refusal(document), HasSubstr("added_tokens[0].id"));
}

TEST_F(MalformedTokenizerTest, MergesMustNameTokens) {
  EXPECT_THAT(patched(R"([{"op": "add", "path": "/model/merges/-", "value": ["a", "zz"]}])"),
              AllOf(HasSubstr("model.merges[1]"), HasSubstr("\"zz\" is not in the vocabulary")));
  EXPECT_THAT(patched(R"([{"op": "add", "path": "/model/merges/-", "value": ["a", "c"]}])"), HasSubstr("\"ac\""));
  EXPECT_THAT(patched(R"([{"op": "add", "path": "/model/merges/-", "value": "a b"}])"), HasSubstr("all pairs"));
  EXPECT_THAT(patched(R"([{"op": "add", "path": "/model/merges/-", "value": ["a"]}])"), HasSubstr("a pair of strings"));
  EXPECT_THAT(patched(R"([{"op": "replace", "path": "/model/merges", "value": ["a b c"]}])"),
              HasSubstr("model.merges[0]"));
}

TEST_F(MalformedTokenizerTest, PatternsMustCompile) {
  const auto with = [&](const std::string& pattern) {
    nlohmann::json document = byte_level({});
    document["pre_tokenizer"] = {
        {"type", "Split"}, {"behavior", "Isolated"}, {"invert", false}, {"pattern", {{"Regex", pattern}}}};
    return refusal(document);
  };
  for (const char* pattern :
       {"(", ")", "[a", "a{2,1}", "\\p{Nonsense}", "(?<=a+)b", "\\", "[a&&b]", "[[ab]c]", "(?z)a", "\\k<x>", "*a"}) {
    EXPECT_THAT(with(pattern), HasSubstr("pre_tokenizer.pattern.Regex")) << pattern;
  }
  EXPECT_THAT(with("\\s+"), HasSubstr("it was read"));
}

TEST_F(MalformedTokenizerTest, TemplatesMustBeWhole) {
  const auto with = [&](const char* single) {
    nlohmann::json document = byte_level({});
    document["post_processor"] = parsed(R"({"type": "TemplateProcessing", "pair": [],
      "special_tokens": {"<s>": {"id": "<s>", "ids": [999], "tokens": ["<s>"]}}})");
    document["post_processor"]["single"] = nlohmann::json::parse(single);
    return refusal(document);
  };
  EXPECT_THAT(with("[]"), HasSubstr("no place for the sequence A"));
  EXPECT_THAT(with(R"([{"Sequence": {"id": "B", "type_id": 0}}])"), HasSubstr("post_processor.single[0]"));
  EXPECT_THAT(with(R"([{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}])"),
              HasSubstr("special_tokens"));
  EXPECT_THAT(with(R"([{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}])"),
              HasSubstr("999"));
}

TEST_F(MalformedTokenizerTest, SentencePieceFilesMustBeModels) {
  for (const std::string& bytes :
       {std::string(), std::string("nonsense"), std::string(1000, '\0'), std::string("\x0a\xff\xff\xff\xff\x0f")}) {
    EXPECT_THROW(Tokenizer::load_file(write("tokenizer.model", bytes)), DataError) << bytes.size();
  }
}

TEST_F(MalformedTokenizerTest, AnUnknownCharacterWithoutItsTokenIsAnErrorOfTheText) {
  nlohmann::json document = byte_fallback();
  document["model"]["unk_token"] = "<none>";
  document["model"]["byte_fallback"] = false;
  EXPECT_THROW(load(document)->encode("x", false), DataError);
}

}  // namespace
}  // namespace qlora
