// Text to token ids and back, equal to Hugging Face's `tokenizers` and to `sentencepiece`.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace qlora {

// Half-open range of bytes of the text that was encoded.
struct ByteSpan {
  std::size_t begin = 0;
  std::size_t end = 0;
};

// spans, one a token: the bytes of the input it stands for, through normalization. Empty for tokens added by a
// template. Where normalization made one stretch out of another, every token of the new stretch spans the whole old
// one; a character that was only put before the text (a leading U+2581) spans the character it stands before.
struct Encoding {
  std::vector<std::int32_t> ids;
  std::vector<ByteSpan> spans;
};

// Immutable after loading; every call is safe from several threads.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Reads the first of tokenizer.json, tekken.json, tokenizer.model (of SentencePiece or tiktoken) and qwen.tiktoken
  // that a model folder has, the latter three with the folder's added tokens. tokenizer.json as it is decides, never
  // tokenizer_class; but special tokens are found wherever they are written, as in transformers: templates put them
  // where the packages' own search misses some (Llama 2's "</s>" without a space before it, every control symbol of
  // SentencePiece and Tekken). Throws DataError naming file and place.
  static std::unique_ptr<Tokenizer> load(const std::filesystem::path& model_folder);

  // One file, exactly as the packages `tokenizers`, `sentencepiece`, `tiktoken` (special tokens are text to it) and
  // `mistral-common` take it. Told by its content, Tekken's by "tekken" in its name.
  static std::unique_ptr<Tokenizer> load_file(const std::filesystem::path& file);

  // add_special_tokens: what the tokenizer's own post-processing adds (BOS, EOS). Special tokens that stand in the text
  // are recognised either way. Broken UTF-8 is encoded as U+FFFD replaces it in Python (errors="replace"). DataError
  // for a text of 4 GiB or more.
  virtual Encoding encode(std::string_view text, bool add_special_tokens) const = 0;

  // One encoding a text, in their order, on all threads of core/parallel.h.
  std::vector<Encoding> encode_batch(std::span<const std::string_view> texts, bool add_special_tokens) const;

  // skip_special_tokens leaves out the special added tokens. Ids outside the vocabulary throw DataError.
  virtual std::string decode(std::span<const std::int32_t> ids, bool skip_special_tokens) const = 0;

  virtual std::int32_t vocabulary_size() const = 0;  // with added tokens: the largest id + 1
  virtual std::optional<std::int32_t> id_of(std::string_view token) const = 0;
  virtual std::optional<std::string> token_of(std::int32_t id) const = 0;
  virtual bool is_special(std::int32_t id) const = 0;

  // Whether the id is one byte of a character (byte fallback), so that the ids after it decide what it decodes to.
  virtual bool is_byte(std::int32_t) const { return false; }

  // The bytes that decide how text is encoded: goes into the fingerprint of a prepared set.
  virtual std::string fingerprint() const = 0;
};

// Decodes ids as they come: the pieces and finish() together are decode() of all ids. A piece never ends within a
// character; what may still change is held back.
class DecodeStream {
 public:
  DecodeStream(const Tokenizer& tokenizer, bool skip_special_tokens)
      : tokenizer_(tokenizer), skip_special_tokens_(skip_special_tokens) {}
  std::string push(std::int32_t id);  // the text that is certain now, often ""
  std::string finish();               // the rest; the stream may be used anew

 private:
  std::string emit();
  const Tokenizer& tokenizer_;
  bool skip_special_tokens_;
  std::vector<std::int32_t> ids_;  // the last emitted piece's ids, then those not emitted
  std::size_t emitted_ = 0;        // ids of the last emitted piece
};

// The named special tokens of a model folder: tokenizer_config.json, special_tokens_map.json, config.json and
// generation_config.json, in the precedence that transformers gives them.
struct SpecialTokens {
  std::optional<std::string> bos, eos, pad, unk;
  std::vector<std::int32_t>
      stop_ids;  // generation_config's eos_token_id (one or several), else config.json's, else eos
};
SpecialTokens load_special_tokens(const std::filesystem::path& model_folder, const Tokenizer& tokenizer);

}  // namespace qlora
