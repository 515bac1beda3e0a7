// Chat templates from the outside: choosing and loading them, the built-in ones, messages of errors.
#include "qlora/text/chat_template.h"

#include <unistd.h>

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "qlora/core/error.h"

#include "support/temporary_folder.h"

namespace qlora {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class ModelFolder : public ::testing::Test {
 protected:
  void write(const std::string& name, const std::string& text) { temporary_.write(name, text); }

  const TemporaryFolder temporary_;
  const std::filesystem::path folder_ = temporary_.path();
};

Json conversation() {
  return Json::parse(R"({"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": false, "messages": [
    {"role": "system", "content": "Be brief."}, {"role": "user", "content": " Hi "}, {"role": "assistant", "content": "Yo"}]})");
}

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return std::to_string(static_cast<int>(error.code())) + " " + error.what();
  }
  return "no error";
}

TEST_F(ModelFolder, BuiltInTemplates) {
  Json chat = conversation();
  EXPECT_EQ(choose_chat_template("chatml", folder_)->render(chat),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hi "
            "<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n");
  EXPECT_EQ(
      choose_chat_template("llama3", folder_)->render(chat),
      "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>"
      "\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nYo<|eot_id|>");
  EXPECT_EQ(choose_chat_template("alpaca", folder_)->render(chat),
            "<s>Be brief.\n\n### Instruction:\n Hi \n\n### Response:\nYo</s>");
}

TEST_F(ModelFolder, BuiltInPromptsArePrefixesOfTheWhole) {
  for (const std::string name : {"chatml", "llama3", "alpaca"}) {
    const auto chat_template = choose_chat_template(name, folder_);
    Json prompt = conversation();
    const std::string whole = chat_template->render(prompt);
    prompt["messages"].erase(2);
    prompt["add_generation_prompt"] = true;
    EXPECT_THAT(whole, StartsWith(chat_template->render(prompt))) << name;
  }
}

TEST_F(ModelFolder, AlpacaRefusesUnknownRoles) {
  Json chat = conversation();
  chat["messages"][1]["role"] = "critic";
  EXPECT_THAT(error_of([&] { choose_chat_template("alpaca", folder_)->render(chat); }), HasSubstr("'critic'"));
}

Json with_messages(const char* messages, const char* more = "{}") {
  Json chat = conversation();
  chat["messages"] = Json::parse(messages);
  chat.update(Json::parse(more));
  return chat;
}

constexpr const char* kTools =
    R"({"tools": [{"type": "function", "function": {"name": "f", "description": "é <b>"}}]})";
constexpr const char* kCalls = R"([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "q"},
    {"role": "assistant", "content": null, "tool_calls": [
      {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}, {"name": "g", "arguments": {}}]},
    {"role": "tool", "content": "1"}, {"role": "tool", "content": "2"},
    {"role": "assistant", "content": "done", "tool_calls": [{"function": {"name": "f", "arguments": {"a": [2, "é"]}}}]},
    {"role": "tool", "content": "3"}, {"role": "assistant", "content": "bye"}])";

TEST_F(ModelFolder, ChatmlRendersToolsCallsAndResults) {
  const std::string text = choose_chat_template("chatml", folder_)->render(with_messages(kCalls, kTools));
  EXPECT_THAT(text, StartsWith("<|im_start|>system\nBe brief.\n\n# Tools\n\nYou may call"));
  EXPECT_THAT(
      text, HasSubstr("<tools>\n{\"type\": \"function\", \"function\": {\"name\": \"f\", \"description\": \"é <b>\"}}\n"
                      "</tools>"));
  EXPECT_THAT(text,
              EndsWith("</tool_call><|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
                       "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>\n"
                       "<tool_call>\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call><|im_end|>\n"
                       "<|im_start|>user\n<tool_response>\n1\n</tool_response>\n"
                       "<tool_response>\n2\n</tool_response><|im_end|>\n<|im_start|>assistant\ndone\n"
                       "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [2, \"é\"]}}\n</tool_call><|im_end|>\n"
                       "<|im_start|>user\n<tool_response>\n3\n</tool_response><|im_end|>\n"
                       "<|im_start|>assistant\nbye<|im_end|>\n"));
}

TEST_F(ModelFolder, ChatmlToolsWithoutASystemMessageAndArgumentsAsText) {
  const Json chat = with_messages(R"([{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [
      {"type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}}]}])",
                                  kTools);
  const std::string text = choose_chat_template("chatml", folder_)->render(chat);
  EXPECT_THAT(text, StartsWith("<|im_start|>system\n# Tools\n\n"));
  EXPECT_THAT(text, EndsWith("</tool_call><|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
                             "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\":1}}\n</tool_call><|im_end|>\n"));
}

TEST_F(ModelFolder, BuiltInTemplatesLoseNothing) {
  const auto refusal = [&](const std::string& name, const char* messages, const char* more = "{}") {
    return error_of([&] { choose_chat_template(name, folder_)->render(with_messages(messages, more)); });
  };
  constexpr const char* kUser = R"([{"role": "user", "content": "q"}])";
  for (const std::string name : {"llama3", "alpaca"}) {
    EXPECT_THAT(refusal(name, kUser, kTools), HasSubstr("renders no tools")) << name;
    EXPECT_THAT(refusal(name, kCalls), HasSubstr("renders no tool_calls")) << name;
    EXPECT_THAT(refusal(name, R"([{"role": "tool", "content": "1"}])"), HasSubstr("role tool")) << name;
  }
  for (const std::string name : {"chatml", "llama3", "alpaca"}) {
    EXPECT_EQ(refusal(name, kUser, R"({"tools": [], "documents": null})"), "no error") << name;
    EXPECT_THAT(refusal(name, kUser, R"({"documents": [{"text": "d"}]})"), HasSubstr("renders no documents")) << name;
    EXPECT_THAT(refusal(name, R"([{"role": "assistant", "content": null, "function_call": {"name": "f"}}])"),
                HasSubstr("renders no function_call"))
        << name;
    EXPECT_THAT(refusal(name, R"([{"role": "function", "content": "1"}])"), HasSubstr("role function")) << name;
    for (const char* content : {"null", "[]", "{\"text\": \"a\"}", "5"}) {
      const std::string turn = std::string(R"([{"role": "user", "content": )") + content + "}]";
      EXPECT_THAT(refusal(name, turn.c_str()), HasSubstr("a turn of role 'user' has no text")) << name << content;
    }
    const auto refused_part = [&](const char* part) {
      return refusal(name, (std::string(R"([{"role": "user", "content": [)") + part + "]}]").c_str());
    };
    for (const char* part : {R"({"type": "image", "image": "a.png"})", R"({"type": "image", "text": "a"})", R"("a")"})
      EXPECT_THAT(refused_part(part), HasSubstr("renders no part of type")) << name << part;
    for (const char* part : {R"({"type": "text"})", R"({"type": "text", "text": 5})"})
      EXPECT_THAT(refused_part(part), HasSubstr("a part of type 'text' has no 'text'")) << name << part;
  }
}

TEST_F(ModelFolder, BuiltInTemplatesJoinTextParts) {
  for (const std::string name : {"chatml", "llama3", "alpaca"}) {
    const auto chat_template = choose_chat_template(name, folder_);
    const Json parts = with_messages(R"([{"role": "user", "content": [{"type": "text", "text": " H"},
        {"type": "text", "text": "i "}]}, {"role": "assistant", "content": [{"type": "text", "text": "Yo"}]}])");
    const Json whole =
        with_messages(R"([{"role": "user", "content": " Hi "}, {"role": "assistant", "content": "Yo"}])");
    EXPECT_EQ(chat_template->render(parts), chat_template->render(whole)) << name;
  }
}

TEST_F(ModelFolder, AlpacaHasHeadingsForInputAndContext) {
  const Json chat = with_messages(R"([{"role": "system", "content": "S"}, {"role": "input", "content": "I"},
      {"role": "context", "content": "C"}, {"role": "assistant", "content": "A"}])");
  EXPECT_EQ(choose_chat_template("alpaca", folder_)->render(chat),
            "<s>S\n\n### Input:\nI\n\n### Context:\nC\n\n### Response:\nA</s>");
}

TEST_F(ModelFolder, TheFileWinsOverTheConfiguration) {
  write("tokenizer_config.json", R"({"chat_template": "from config"})");
  EXPECT_EQ(load_chat_template(folder_)->render(Json::object()), "from config");
  write("chat_template.jinja", "from file");
  EXPECT_EQ(load_chat_template(folder_)->render(Json::object()), "from file");
  EXPECT_EQ(choose_chat_template("auto", folder_)->source(), "from file");
}

TEST_F(ModelFolder, OfNamedTemplatesToolsChooseTheirOwn) {
  write("tokenizer_config.json",
        R"({"chat_template": [{"name": "default", "template": "D"}, {"name": "rag", "template": "{% broken"},
                              {"name": "tool_use", "template": "T"}]})");
  const auto both = load_chat_template(folder_);
  EXPECT_EQ(both->source(), "D");
  EXPECT_EQ(both->tool_source(), "T");
  EXPECT_EQ(both->render({{"tools", nullptr}}), "D");
  EXPECT_EQ(both->render(Json::object()), "D");
  EXPECT_EQ(both->render({{"tools", Json::array()}}), "T");
  write("chat_template.jinja", "F");
  EXPECT_EQ(load_chat_template(folder_)->render({{"tools", Json::array()}}), "F");
  write("additional_chat_templates/tool_use.jinja", "FT");
  EXPECT_EQ(load_chat_template(folder_)->render({{"tools", Json::array()}}), "FT");
  EXPECT_EQ(load_chat_template(folder_)->render(Json::object()), "F");
}

TEST_F(ModelFolder, ListsMustNameADefault) {
  write("tokenizer_config.json", R"({"chat_template": [{"name": "rag", "template": "R"}]})");
  EXPECT_THAT(error_of([&] { load_chat_template(folder_); }), AllOf(StartsWith("3 "), HasSubstr("'default'")));
  write("tokenizer_config.json", R"({"chat_template": [{"name": "rag"}]})");
  EXPECT_THAT(error_of([&] { load_chat_template(folder_); }), HasSubstr("needs a name and a template"));
}

TEST_F(ModelFolder, NoTemplate) {
  EXPECT_EQ(load_chat_template(folder_), nullptr);
  write("tokenizer_config.json", R"({"chat_template": null})");
  EXPECT_EQ(load_chat_template(folder_), nullptr);
  EXPECT_THAT(error_of([&] { choose_chat_template("auto", folder_); }),
              AllOf(StartsWith("2 "), HasSubstr("chatml, llama3, alpaca")));
  EXPECT_THAT(error_of([&] { choose_chat_template("chatlm", folder_); }), AllOf(StartsWith("2 "), HasSubstr("chatlm")));
}

TEST_F(ModelFolder, BrokenConfigurationsAreBadData) {
  write("tokenizer_config.json", "{");
  EXPECT_THAT(error_of([&] { load_chat_template(folder_); }), AllOf(StartsWith("3 "), HasSubstr("not valid JSON")));
  write("tokenizer_config.json", "[]");
  EXPECT_THAT(error_of([&] { load_chat_template(folder_); }), HasSubstr("must be a JSON object"));
  write("tokenizer_config.json", R"({"chat_template": 5})");
  EXPECT_THAT(error_of([&] { load_chat_template(folder_); }), HasSubstr("must be a string or a list"));
}

TEST_F(ModelFolder, FileAsChoice) {
  write("own.jinja", "{{ messages[0].content }}");
  EXPECT_EQ(choose_chat_template((folder_ / "own.jinja").string(), folder_)->render(conversation()), "Be brief.");
}

TEST(ChatTemplateErrors, NameOriginLineColumnAndShowTheLine) {
  const std::string message = error_of(
      [] { ChatTemplate::parse("ok\n{% if messages %}\n  {{ messages | frobnicate }}\n{% endfor %}", "t.jinja"); });
  EXPECT_THAT(message, StartsWith("3 t.jinja:4:4: "));
  EXPECT_THAT(message, HasSubstr("\n  {% endfor %}\n     ^"));
}

TEST(ChatTemplateErrors, AtRenderTime) {
  const auto chat_template = ChatTemplate::parse("a\n  {{ messages[0].content.upper() + 5 }}", "t.jinja");
  EXPECT_THAT(error_of([&] { chat_template->render(conversation()); }), StartsWith("3 t.jinja:2:"));
  const auto raising = ChatTemplate::parse("é {{ raise_exception('Roles must alternate') }}", "r");
  EXPECT_THAT(error_of([&] { raising->render(Json::object()); }),
              AllOf(StartsWith("3 r:1:"), HasSubstr("Roles must alternate")));
}

TEST(ChatTemplateErrors, BrokenUtf8) {
  EXPECT_THAT(error_of([] { ChatTemplate::parse("a\xff", "t"); }), HasSubstr("UTF-8"));
}

}  // namespace
}  // namespace qlora
