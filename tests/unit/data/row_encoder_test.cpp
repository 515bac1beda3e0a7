#include "qlora/data/row_encoder.h"

#include <gmock/gmock.h>

#include "fakes.h"

namespace qlora {
namespace {

using ::testing::HasSubstr;
using namespace testing;  // NOLINT: the fakes of this room

TEST(Render, EveryAnswerWithItsEndTokenAndNoMore) {
  const RowEncoder encoder = chat_encoder();
  const Rendered rendered =
      encoder.render(chat({{"system", "S"}, {"user", "one"}, {"assistant", "1"}, {"user", "two"}, {"assistant", "2"}}));
  EXPECT_EQ(rendered.text,
            "[system]S<|end|>\n[user]one<|end|>\n[assistant]1<|end|>\n[user]two<|end|>\n[assistant]2<|end|>\n");
  EXPECT_EQ(rendered.prompt, "[system]S<|end|>\n[user]one<|end|>\n[assistant]1<|end|>\n[user]two<|end|>\n[assistant]");
  EXPECT_FALSE(rendered.only_last);
  const EncodedRow row = encoder.encode(rendered);
  EXPECT_EQ(learnt(row), "1<|end|>2<|end|>");
  EXPECT_EQ(row.end_token, ByteTokenizer::kEnd);
  EXPECT_EQ(ByteTokenizer().decode(std::span(row.ids).first(static_cast<std::size_t>(row.prompt_tokens)), false),
            *rendered.prompt);
  EXPECT_EQ(encoder.encode_prompt(rendered), ByteTokenizer().encode(*rendered.prompt, false).ids);
}

TEST(Render, WhiteSpaceOfAnAnswerIsLearntUnlessItFollowsTheEndToken) {
  const RowEncoder encoder = chat_encoder();
  EXPECT_EQ(learnt(encoder.encode(encoder.render(chat({{"user", "q"}, {"assistant", " a\n\n"}})))), " a\n\n<|end|>");
  const RowEncoder endless(std::make_shared<ByteTokenizer>(), chat_tokens(),
                           std::make_shared<FunctionTemplate>([](const Json& variables) {
                             std::string text;
                             for (const Json& turn : variables["messages"])
                               text += turn["content"].get<std::string>() + "\n";
                             return text;
                           }),
                           DataOptions{});
  const EncodedRow row = endless.encode(endless.render(chat({{"user", "q"}, {"assistant", "a"}})));
  EXPECT_EQ(learnt(row), "a\n");
  EXPECT_EQ(row.end_token, EncodedRow::kNoEndToken);
}

TEST(Render, AnAnswerWithoutTextStillLearnsToEnd) {
  const RowEncoder encoder = chat_encoder();
  EXPECT_EQ(learnt(encoder.encode(encoder.render(chat({{"user", "q"}, {"assistant", ""}})))), "<|end|>");
}

// As templates do that drop the reasoning of earlier turns: the longer rendering does not begin with the shorter one.
std::string render_forgetful(const Json& variables) {
  const Json& messages = variables["messages"];
  std::string text;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const auto content = messages[i]["content"].get<std::string>();
    const bool last = i + 1 == messages.size();
    text += "[" + messages[i]["role"].get<std::string>() + "]" +
            (last ? content : content.substr(content.find('>') + 1)) + "<|end|>\n";
  }
  return variables["add_generation_prompt"].get<bool>() ? text + "[assistant]" : text;
}

TEST(Render, WhereARenderingIsNoPrefixOnlyTheLastAnswerIsLearnt) {
  const RowEncoder encoder(std::make_shared<ByteTokenizer>(), chat_tokens(),
                           std::make_shared<FunctionTemplate>(render_forgetful), DataOptions{});
  // The first answer stays as it was, the second is rendered without its reasoning once the third follows.
  const Rendered rendered = encoder.render(chat(
      {{"user", "q"}, {"assistant", "1"}, {"user", "r"}, {"assistant", "t>2"}, {"user", "s"}, {"assistant", "t>3"}}));
  EXPECT_TRUE(rendered.only_last);
  EXPECT_EQ(learnt(encoder.encode(rendered)), "t>3<|end|>");
}

TEST(Render, AGenerationPromptThatSaysMoreThanTheTurn) {
  const RowEncoder encoder(std::make_shared<ByteTokenizer>(), chat_tokens(),
                           std::make_shared<FunctionTemplate>([](const Json& variables) {
                             const std::string text = render_turns(variables);
                             return variables["add_generation_prompt"].get<bool>() ? text + "<think>\n" : text;
                           }),
                           DataOptions{});
  const auto render = [&](const std::string& answer) {
    return encoder.render(chat({{"user", "q"}, {"assistant", answer}}));
  };
  for (const std::string answer : {"a", "<thead>", ""}) {  // also one that begins as the prompt ends
    EXPECT_EQ(learnt(encoder.encode(render(answer))), answer + "<|end|>");
    EXPECT_TRUE(render(answer).only_last);
    EXPECT_THAT(*render(answer).prompt, HasSubstr("[assistant]<think>"));
  }
  EXPECT_EQ(learnt(encoder.encode(render("<think>\nso"))), "so<|end|>");  // it goes on from the prompt
  EXPECT_FALSE(render("<think>\nso").only_last);
}

// As Mistral-Nemo's: the system message stands in the last turn of a user, and nowhere once an answer follows.
std::string render_system_late(const Json& variables) {
  const Json& messages = variables["messages"];
  const bool has_system = messages[0]["role"] == "system";
  std::string text;
  for (std::size_t i = has_system ? 1 : 0; i < messages.size(); ++i) {
    const auto content = messages[i]["content"].get<std::string>();
    const bool asks = messages[i]["role"] == "user";
    const bool last = i + 1 == messages.size();
    const std::string system = has_system && last ? messages[0]["content"].get<std::string>() + "\n\n" : "";
    text += asks ? "[INST]" + system + content + "[/INST]" : content + "<|end|>";
  }
  return text;
}

TEST(Render, APromptThatSaysMoreThanTheTurnsBeforeTheAnswerIsTrainedAsItIsAsked) {
  const RowEncoder encoder(std::make_shared<ByteTokenizer>(), chat_tokens(),
                           std::make_shared<FunctionTemplate>(render_system_late), DataOptions{});
  for (const char* answer : {"a", "banana", "[/INST]", ""}) {
    const Rendered rendered = encoder.render(
        chat({{"system", "S"}, {"user", "q"}, {"assistant", "1"}, {"user", "a"}, {"assistant", answer}}));
    EXPECT_EQ(*rendered.prompt, "[INST]q[/INST]1<|end|>[INST]S\n\na[/INST]");
    EXPECT_EQ(rendered.text, *rendered.prompt + answer + "<|end|>");
    EXPECT_EQ(learnt(encoder.encode(rendered)), std::string(answer) + "<|end|>");
    EXPECT_TRUE(rendered.only_last);
  }
}

TEST(Render, AConversationThatBeginsWithAnAnswer) {
  const RowEncoder encoder(std::make_shared<ByteTokenizer>(), chat_tokens(),
                           std::make_shared<FunctionTemplate>([](const Json& variables) {
                             if (variables["messages"].empty()) throw DataError("template: no messages");
                             return render_turns(variables);
                           }),
                           DataOptions{});
  const Rendered rendered = encoder.render(chat({{"assistant", "hi"}, {"user", "q"}, {"assistant", "a"}}));
  EXPECT_TRUE(rendered.only_last);
  EXPECT_EQ(learnt(encoder.encode(rendered)), "a<|end|>");
}

TEST(Render, WithoutAnAnswerNothingIsLearnt) {
  const RowEncoder encoder = chat_encoder();
  const Rendered rendered = encoder.render(chat({{"user", "q"}}));
  EXPECT_EQ(rendered.prompt, "[user]q<|end|>\n[assistant]");
  EXPECT_EQ(encoder.encode(rendered).targets(), 0);
}

TEST(Render, TheTemplateGetsTokensToolsAndArguments) {
  Json seen;
  DataOptions options;
  options.chat_template_kwargs = Json{{"mode", "a"}, {"deep", 1}};
  const RowEncoder encoder(std::make_shared<ByteTokenizer>(), chat_tokens(),
                           std::make_shared<FunctionTemplate>([&](const Json& variables) {
                             seen = variables;
                             return render_turns(variables);
                           }),
                           options);
  Example example = chat({{"user", "q"}});
  example.tools = Json::parse(R"([{"name":"f"}])");
  example.chat_template_kwargs = Json{{"mode", "b"}};
  encoder.render(example);
  EXPECT_EQ(seen["bos_token"], "<s>");
  EXPECT_EQ(seen["eos_token"], "<|end|>");
  EXPECT_FALSE(seen.contains("pad_token"));
  EXPECT_EQ(seen["tools"].dump(), R"([{"name":"f"}])");
  EXPECT_TRUE(seen["documents"].is_null());
  EXPECT_EQ(seen["mode"], "b");
  EXPECT_EQ(seen["deep"], 1);
}

TEST(Render, WhatATemplateRaisesNamesTheRow) {
  const RowEncoder encoder(std::make_shared<ByteTokenizer>(), chat_tokens(),
                           std::make_shared<FunctionTemplate>([](const Json&) -> std::string {
                             throw DataError("chat_template.jinja:3:4: roles must alternate");
                           }),
                           DataOptions{});
  EXPECT_EQ(error_of<DataError>([&] {
              encoder.render(chat({{"user", "q"}}));
            }),
            "rows.jsonl:1: chat_template.jinja:3:4: roles must alternate");
}

Example completion(const std::string& prompt, const std::string& answer) {
  Example example;
  example.kind = Example::Kind::kCompletion;
  example.prompt = prompt;
  example.answer = answer;
  return example;
}

TEST(Encode, ACompletionHasOneBosAndOneEnd) {
  for (const bool adds_eos : {false, true}) {
    const RowEncoder encoder(std::make_shared<ByteTokenizer>(adds_eos), plain_tokens(), nullptr, DataOptions{});
    for (const char* prompt : {"p", "<s>p"}) {
      const Rendered rendered = encoder.render(completion(prompt, "a"));
      const EncodedRow row = encoder.encode(rendered);
      EXPECT_EQ(ByteTokenizer().decode(row.ids, false), "<s>pa</s>");
      EXPECT_EQ(learnt(row), "a</s>");
      EXPECT_EQ(row.targets(), 2);
      EXPECT_EQ(ByteTokenizer().decode(encoder.encode_prompt(rendered), false), "<s>p");
    }
  }
}

TEST(Encode, ACompletionNeedsAnEndToken) {
  SpecialTokens none;
  const RowEncoder encoder(std::make_shared<ByteTokenizer>(), none, nullptr, DataOptions{});
  EXPECT_THAT(error_of<DataError>([&] { encoder.render(completion("p", "a")); }), HasSubstr("names no end token"));
}

TEST(Encode, TextIsWhatTheTokenizerMakesOfIt) {
  Example example;
  example.kind = Example::Kind::kText;
  example.answer = "ab</s>c";
  const RowEncoder encoder = plain_encoder();
  const Rendered rendered = encoder.render(example);
  EXPECT_FALSE(rendered.prompt.has_value());
  EXPECT_THROW(encoder.encode_prompt(rendered), DataError);
  const EncodedRow row = encoder.encode(rendered);
  EXPECT_EQ(row.ids, ByteTokenizer().encode("ab</s>c", true).ids);
  EXPECT_EQ(row.label_tokens(), 5);
  EXPECT_EQ(row.targets(), 4);
  DataOptions bare;
  bare.add_special_tokens = false;
  EXPECT_EQ(plain_encoder(bare).encode(plain_encoder(bare).render(example)).ids,
            ByteTokenizer().encode("ab</s>c", false).ids);
}

TEST(Encode, LossOnEverythingWhereThatIsAsked) {
  DataOptions options;
  options.assistant_only_loss = false;
  const RowEncoder encoder = chat_encoder(options);
  const EncodedRow row = encoder.encode(encoder.render(chat({{"user", "q"}, {"assistant", "a"}})));
  EXPECT_EQ(row.label_tokens(), static_cast<std::int64_t>(row.ids.size()));
}

}  // namespace
}  // namespace qlora
