// Rendering: an example becomes text with the byte spans of its answers.
#include <algorithm>

#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/data/row_encoder.h"

namespace qlora {
namespace {

std::size_t common_prefix(const std::string& a, const std::string& b) {
  const auto end = std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first;
  auto size = static_cast<std::size_t>(end - a.begin());
  // Not in the middle of a character.
  while (size > 0 && size < b.size() && (static_cast<unsigned char>(b[size]) & 0xC0) == 0x80) --size;
  return size;
}

// How many characters the two end in alike: `b` up to its byte `end`.
std::size_t common_suffix(const std::string& a, const std::string& b, std::size_t end) {
  const std::size_t most = std::min(a.size(), end);
  std::size_t size = 0;
  while (size < most && a[a.size() - 1 - size] == b[end - 1 - size]) ++size;
  return size;
}

}  // namespace

Json RowEncoder::variables_of(const Example& example) const {
  Json variables = Json::object();
  const auto add_token = [&](const char* name, const std::optional<std::string>& token) {
    if (token) variables[name] = *token;
  };
  add_token("bos_token", special_.bos);
  add_token("eos_token", special_.eos);
  add_token("unk_token", special_.unk);
  add_token("pad_token", special_.pad);
  for (const Json* extra : {&options_.chat_template_kwargs, &example.chat_template_kwargs}) {
    if (extra->is_object()) variables.update(*extra);
  }
  variables["tools"] = example.tools;
  variables["documents"] = example.documents;
  return variables;
}

std::string RowEncoder::render_messages(const Conversation& chat, std::size_t count, bool generation) const {
  Json all = chat.variables;
  const auto begin = chat.messages.begin();
  all["messages"] = Json(Json::array_t(begin, begin + static_cast<std::ptrdiff_t>(count)));
  all["add_generation_prompt"] = generation;
  return template_->render(all);
}

// Where the content of message i begins in `text`, the rendering up to that message: where one that says something else
// parts from it. 0 where the content is no text.
std::size_t RowEncoder::content_begin(const Conversation& chat, std::size_t i, const std::string& text) const {
  Json messages = chat.messages;
  Json& content = messages[i]["content"];
  if (!content.is_string()) return 0;
  const auto answer = content.get<std::string>();
  const std::size_t first = answer.find_first_not_of(" \t\r\n");
  content = first != std::string::npos && answer[first] == 'a' ? "b" : "a";
  return common_prefix(text, render_messages({chat.variables, messages}, i + 1, false));
}

// The bytes of message i, if the renderings before and after it are prefixes of each other and of the whole text.
std::optional<ByteSpan> RowEncoder::answer_span(const Conversation& chat, std::size_t i, Rendered& rendered) const {
  const bool last_message = i + 1 == chat.messages.size();
  try {
    const std::string before = render_messages(chat, i, true);
    const std::string after = last_message ? rendered.text : render_messages(chat, i + 1, false);
    rendered.prompt = before;
    if (!rendered.text.starts_with(after)) return std::nullopt;
    if (after.starts_with(before)) return ByteSpan{before.size(), after.size()};
    // The generation prompt says more than the rendered turn ("<think>"): the answer is what the turn says.
    const std::string history = render_messages(chat, i, false);
    rendered.only_last = true;
    if (!after.starts_with(history)) return std::nullopt;
    const std::size_t begin = content_begin(chat, i, after);
    if (begin >= history.size()) return ByteSpan{begin, after.size()};
  } catch (const DataError&) {
    // A prefix may be no conversation of its own (an empty one, say), which the template may refuse.
  }
  return std::nullopt;
}

// A template may write the turns before an answer otherwise once it is there (a system message into the last user turn
// of a prompt alone). What is trained is what would be generated: the prompt, and of the whole rendering what stands
// behind the place where it reads like the prompt's end for the longest stretch before the answer.
void RowEncoder::join_prompt_and_answer(const Conversation& chat, Rendered& rendered) const {
  if (!rendered.prompt) return;
  const std::size_t begin = content_begin(chat, chat.messages.size() - 1, rendered.text);
  std::size_t joint = 0, longest = 0;
  for (std::size_t end = 1; end <= begin; ++end) {
    const std::size_t size = common_suffix(*rendered.prompt, rendered.text, end);
    if (size < longest || size == 0) continue;
    longest = size;
    joint = end;
  }
  if (longest == 0) return;
  rendered.text = *rendered.prompt + rendered.text.substr(joint);
  rendered.answers = {{rendered.prompt->size(), rendered.text.size()}};
}

Rendered RowEncoder::render_chat(const Example& example) const {
  const Conversation chat{variables_of(example), example.messages};
  Rendered rendered;
  rendered.text = render_messages(chat, chat.messages.size(), false);

  std::optional<ByteSpan> last;
  for (std::size_t i = 0; i < chat.messages.size(); ++i) {
    if (chat.messages[i]["role"] != "assistant") continue;
    rendered.prompt.reset();
    last = answer_span(chat, i, rendered);
    if (last) rendered.answers.push_back(*last);
    if (!last) rendered.only_last = true;
  }
  if (!rendered.prompt) rendered.prompt = render_messages(chat, chat.messages.size(), true);
  if (rendered.only_last) {
    rendered.answers.clear();
    if (last) {
      rendered.answers.push_back(*last);
    } else if (chat.messages.back()["role"] == "assistant") {
      join_prompt_and_answer(chat, rendered);
    }
  }
  return rendered;
}

Rendered RowEncoder::render_completion(const Example& example) const {
  if (!special_.eos) {
    throw DataError(
        "the model names no end token (eos_token in tokenizer_config.json), so the end of an answer cannot be "
        "learnt");
  }
  Rendered rendered;
  rendered.prompt = example.prompt;
  rendered.text = example.prompt + example.answer;
  if (!example.answer.ends_with(*special_.eos)) rendered.text += *special_.eos;
  rendered.answers.push_back({example.prompt.size(), rendered.text.size()});
  rendered.add_special_tokens = true;
  return rendered;
}

Rendered RowEncoder::render(const Example& example) const {
  try {
    switch (example.kind) {
      case Example::Kind::kChat:
        return render_chat(example);
      case Example::Kind::kCompletion:
        return render_completion(example);
      case Example::Kind::kText:
        break;
    }
  } catch (const DataError& error) {
    throw DataError(fmt::format("{}: {}", example.place, error.what()));
  }
  Rendered rendered;
  rendered.text = example.answer;
  rendered.add_special_tokens = options_.add_special_tokens;
  rendered.learn_all = true;
  return rendered;
}

}  // namespace qlora
