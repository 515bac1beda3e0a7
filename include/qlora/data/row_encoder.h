// A row's way from what it says to text, and from text to tokens with labels. prepare, train and eval all render here.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "qlora/data/dataset.h"
#include "qlora/data/example.h"
#include "qlora/data/options.h"
#include "qlora/data/row_format.h"
#include "qlora/text/chat_template.h"
#include "qlora/text/tokenizer.h"

namespace qlora {

// A row as text.
struct Rendered {
  std::string text;
  std::vector<ByteSpan> answers;  // bytes of `text` that the assistant says, end token and all, in order
  std::optional<std::string>
      prompt;                       // the text up to the last answer, as generation would see it; none for format text
  bool add_special_tokens = false;  // whether the tokenizer's own post-processing belongs to it
  bool learn_all = false;           // format text: the loss is taken on every token
  // An earlier rendering is no prefix of this one: the last answer alone is in `answers`. Where that holds for its own
  // prompt, too, `text` is the prompt and the answer, joined.
  bool only_last = false;
};

// A row as tokens.
struct EncodedRow {
  static constexpr std::int32_t kNoEndToken = -1;

  std::vector<std::int32_t> ids;
  std::vector<std::uint8_t> labelled;  // [ids] 1 where the loss is taken on this token
  std::vector<ByteSpan> spans;         // [ids] the bytes of the text that a token stands for
  std::int32_t prompt_tokens = 0;      // tokens before the last answer
  // The special token that ends the last answer, kNoEndToken where none does.
  std::int32_t end_token = kNoEndToken;

  std::int64_t label_tokens() const;
  // Labelled tokens that have a token before them: what a step predicts.
  std::int64_t targets() const;
  // Cuts off what is behind the first `tokens`.
  void truncate(std::int64_t tokens);
};

// Immutable after construction; every call is safe from several threads.
class RowEncoder {
 public:
  // Loads tokenizer, special tokens and chat template of a model folder. A template is needed where `datasets` hold
  // formats that only a template can render: UsageError lists the choices where the model has none and none is named.
  RowEncoder(const std::filesystem::path& model_folder, const DataOptions& options,
             const std::vector<const Dataset*>& datasets);
  // From parts; chat_template may be null.
  RowEncoder(std::shared_ptr<const Tokenizer> tokenizer, SpecialTokens special,
             std::shared_ptr<const ChatTemplate> chat_template, const DataOptions& options);

  Example example(const Dataset& dataset, std::size_t i) const;

  // Answers are found by rendering prefixes: messages[:i] with the generation prompt and messages[:i+1]; what the
  // second has more is the answer. Throws DataError (with the row's place) for what the template raises.
  Rendered render(const Example& example) const;

  // A token is labelled where it overlaps an answer. White space behind an answer's end token carries no loss:
  // generation ends at the token. There is one BOS at most.
  EncodedRow encode(const Rendered& rendered) const;

  // The ids that generation starts from. Throws DataError for a row without a prompt (format text).
  std::vector<std::int32_t> encode_prompt(const Rendered& rendered) const;

  const Tokenizer& tokenizer() const { return *tokenizer_; }
  const SpecialTokens& special_tokens() const { return special_; }
  // Where generation stops: the tokenizer's eos, generation_config's, and the end token of a template that is named.
  std::vector<std::int32_t> stop_ids() const;
  // Whether the named template ends answers with a token at which the model itself would not stop.
  bool adds_stop() const { return adds_stop_; }
  const ChatTemplate* chat_template() const { return template_.get(); }
  const Schemas& schemas() const { return *schemas_; }
  const DataOptions& options() const { return options_; }
  // Whether the rendering of some format reads database schemas.
  bool uses_schemas() const;

 private:
  void set_special_tokens(SpecialTokens special);
  // Who names a template wants its end token: what ends an answer in it is a stop id from here on.
  void stop_at_template_end();

  struct Conversation {
    Json variables;  // of the template, but for `messages` and `add_generation_prompt`
    const Json& messages;
  };
  Rendered render_chat(const Example& example) const;
  Rendered render_completion(const Example& example) const;
  std::string render_messages(const Conversation& chat, std::size_t count, bool generation) const;
  std::optional<ByteSpan> answer_span(const Conversation& chat, std::size_t i, Rendered& rendered) const;
  std::size_t content_begin(const Conversation& chat, std::size_t i, const std::string& text) const;
  void join_prompt_and_answer(const Conversation& chat, Rendered& rendered) const;
  Json variables_of(const Example& example) const;
  Encoding encode_text(const std::string& text, bool add_special_tokens) const;
  bool is_end_token(std::int32_t id) const;
  void label_answers(const Rendered& rendered, EncodedRow& row) const;

  std::shared_ptr<const Tokenizer> tokenizer_;
  SpecialTokens special_;
  std::shared_ptr<const ChatTemplate> template_;
  DataOptions options_;
  std::unique_ptr<const Schemas> schemas_;
  FormatContext context_;
  std::optional<std::int32_t> bos_, eos_;
  bool adds_stop_ = false;
};

}  // namespace qlora
