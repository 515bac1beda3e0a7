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

struct Encoding {
  std::vector<std::int32_t> ids;
  std::vector<ByteSpan> spans;  // one a token: the bytes of the input it stands for (empty for tokens added by a template)
};

// Immutable after loading; every call is safe from several threads.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Reads tokenizer.json, else tokenizer.model, from a model folder. tokenizer.json as it is decides, never
  // tokenizer_class. Throws DataError naming file and place.
  static std::unique_ptr<Tokenizer> load(const std::filesystem::path& model_folder);

  // add_special_tokens: what the tokenizer's own post-processing adds (BOS, EOS). Special tokens that stand in the text
  // are recognised either way. Broken UTF-8 is encoded as U+FFFD replaces it in Python (errors="replace").
  virtual Encoding encode(std::string_view text, bool add_special_tokens) const = 0;

  // skip_special_tokens leaves out the special added tokens. Ids outside the vocabulary throw DataError.
  virtual std::string decode(std::span<const std::int32_t> ids, bool skip_special_tokens) const = 0;

  virtual std::int32_t vocabulary_size() const = 0;  // with added tokens: the largest id + 1
  virtual std::optional<std::int32_t> id_of(std::string_view token) const = 0;
  virtual std::optional<std::string> token_of(std::int32_t id) const = 0;
  virtual bool is_special(std::int32_t id) const = 0;

  // The bytes that decide how text is encoded: goes into the fingerprint of a prepared set.
  virtual std::string fingerprint() const = 0;
};

// The named special tokens of a model folder: tokenizer_config.json, special_tokens_map.json, config.json and
// generation_config.json, in the precedence that transformers gives them.
struct SpecialTokens {
  std::optional<std::string> bos, eos, pad, unk;
  std::vector<std::int32_t> stop_ids;  // generation_config's eos_token_id (one or several), else config.json's, else eos
};
SpecialTokens load_special_tokens(const std::filesystem::path& model_folder, const Tokenizer& tokenizer);

}  // namespace qlora
