// Which tokenizer a folder or file holds; batches; streams.
#include "qlora/text/tokenizer.h"

#include <algorithm>
#include <charconv>
#include <functional>
#include <utility>

#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/core/parallel.h"
#include "qlora/text/tokenizer/json_node.h"
#include "qlora/text/tokenizer/json_tokenizer.h"
#include "qlora/text/tokenizer/sentencepiece_tokenizer.h"
#include "qlora/text/tokenizer/tiktoken.h"
#include "qlora/text/tokenizer/token_model.h"

namespace qlora {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

std::unique_ptr<Tokenizer> read_model_file(const std::filesystem::path& file, VocabularyOptions options) {
  if (is_tiktoken(read_tokenizer_bytes(file))) return read_tiktoken(file, options);
  return read_sentencepiece(file, std::move(options));
}

// A vocabulary as its folder describes it. Tokens are added by added_tokens.json {content: id} and by
// added_tokens_decoder {id: {content, special}} in tokenizer_config.json, which decides where both name one.
VocabularyOptions read_options(const std::filesystem::path& folder) {
  VocabularyOptions options;
  options.special_everywhere = true;
  const auto read = [&](const char* name, const std::function<void(const JsonNode&)>& take) {
    const auto path = folder / name;
    if (!std::filesystem::exists(path)) return;
    const nlohmann::json document = parse_tokenizer_json(read_tokenizer_bytes(path), path.string());
    take(JsonNode(document, path.string()));
  };
  read("added_tokens.json", [&](const JsonNode& root) {
    for (const auto& entry : root.value().items()) {
      const auto id = root.at(entry.key()).integer(0, kMaxTokenId);
      options.added[static_cast<std::int32_t>(id)] = {entry.key(), false};
    }
  });
  read("tokenizer_config.json", [&](const JsonNode& root) {
    options.add_bos = root.flag_or("add_bos_token", true);
    options.add_eos = root.flag_or("add_eos_token", false);
    const auto decoder = root.find("added_tokens_decoder");
    if (!decoder) return;
    for (const auto& entry : decoder->value().items()) {
      const JsonNode token = decoder->at(entry.key());
      std::int64_t id = -1;
      const auto [end, error] = std::from_chars(entry.key().data(), entry.key().data() + entry.key().size(), id);
      if (error != std::errc() || *end != '\0' || id < 0 || id > kMaxTokenId) token.fail("its key is no token id");
      options.added[static_cast<std::int32_t>(id)] = {token.at("content").text(), token.flag_or("special", false)};
    }
  });
  return options;
}

}  // namespace

std::unique_ptr<Tokenizer> Tokenizer::load(const std::filesystem::path& model_folder) {
  if (const auto file = model_folder / "tokenizer.json"; std::filesystem::exists(file))
    return JsonTokenizer::read(file, {.added = {.special_everywhere = true}});
  if (const auto file = model_folder / "tekken.json"; std::filesystem::exists(file))
    return read_tekken(file, read_options(model_folder));
  if (const auto file = model_folder / "tokenizer.model"; std::filesystem::exists(file))
    return read_model_file(file, read_options(model_folder));
  if (const auto file = model_folder / "qwen.tiktoken"; std::filesystem::exists(file))
    return read_tiktoken(file, read_options(model_folder));
  throw DataError(
      fmt::format("{}: has no tokenizer: none of tokenizer.json, tekken.json, tokenizer.model, qwen.tiktoken",
                  model_folder.string()));
}

std::unique_ptr<Tokenizer> Tokenizer::load_file(const std::filesystem::path& file) {
  const bool tekken = file.filename().string().find("tekken") != std::string::npos;
  if (file.extension() == ".json") return tekken ? read_tekken(file, {}) : JsonTokenizer::read(file);
  return read_model_file(file, {});
}

std::vector<Encoding> Tokenizer::encode_batch(std::span<const std::string_view> texts, bool add_special_tokens) const {
  std::vector<Encoding> out(texts.size());
  constexpr std::int64_t kGrain = 16;
  parallel_for(static_cast<std::int64_t>(texts.size()), kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const auto index = static_cast<std::size_t>(i);
      out[index] = encode(texts[index], add_special_tokens);
    }
  });
  return out;
}

// The new text is what the ids since the last piece add to that piece's own text: a decoder may treat the first ids
// differently (drop a leading space), and does so in both.
std::string DecodeStream::emit() {
  const std::string before = tokenizer_.decode(std::span(ids_).first(emitted_), skip_special_tokens_);
  const std::string all = tokenizer_.decode(ids_, skip_special_tokens_);
  ids_.erase(ids_.begin(), ids_.begin() + static_cast<std::ptrdiff_t>(emitted_));
  emitted_ = ids_.size();
  return all.size() > before.size() ? all.substr(before.size()) : "";
}

std::string DecodeStream::push(std::int32_t id) {
  ids_.push_back(id);
  if (tokenizer_.is_byte(id)) return "";
  const std::string all = tokenizer_.decode(ids_, skip_special_tokens_);
  const bool open = all.size() >= kReplacement.size() && all.compare(all.size() - 3, 3, kReplacement) == 0;
  return open ? "" : emit();
}

std::string DecodeStream::finish() {
  std::string rest = emit();
  ids_.clear();
  emitted_ = 0;
  return rest;
}

}  // namespace qlora
