// Which tokenizer a folder or file holds; batches; streams.
#include "qlora/text/tokenizer.h"

#include <algorithm>

#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/core/parallel.h"
#include "qlora/text/tokenizer/json_node.h"
#include "qlora/text/tokenizer/json_tokenizer.h"
#include "qlora/text/tokenizer/sentencepiece_tokenizer.h"

namespace qlora {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// tiktoken's files are lines of a base64 token, a space and its rank.
bool is_tiktoken(std::string_view text) {
  const std::string_view line = text.substr(0, std::min(text.find('\n'), text.size()));
  const std::size_t space = line.find(' ');
  if (space == std::string_view::npos || space == 0 || space + 1 == line.size()) return false;
  static constexpr std::string_view kBase64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=";
  return line.substr(0, space).find_first_not_of(kBase64) == std::string_view::npos &&
         line.substr(space + 1).find_first_not_of("0123456789\r") == std::string_view::npos;
}

SentencePieceFrame read_frame(const std::filesystem::path& config) {
  SentencePieceFrame frame;
  if (!std::filesystem::exists(config)) return frame;
  const nlohmann::json document = parse_tokenizer_json(read_tokenizer_bytes(config), config.string());
  const JsonNode root(document, config.string());
  frame.add_bos = root.flag_or("add_bos_token", true);
  frame.add_eos = root.flag_or("add_eos_token", false);
  return frame;
}

}  // namespace

std::unique_ptr<Tokenizer> Tokenizer::load(const std::filesystem::path& model_folder) {
  for (const char* name : {"tokenizer.json", "tokenizer.model"}) {
    if (std::filesystem::exists(model_folder / name)) return load_file(model_folder / name);
  }
  throw DataError(fmt::format("{}: has neither tokenizer.json nor tokenizer.model", model_folder.string()));
}

std::unique_ptr<Tokenizer> Tokenizer::load_file(const std::filesystem::path& file) {
  if (file.extension() == ".json") return JsonTokenizer::read(file);
  if (is_tiktoken(read_tokenizer_bytes(file))) {
    throw UsageError(
        fmt::format("{}: is a tiktoken vocabulary, which cannot be read yet; use a model folder that has "
                    "tokenizer.json",
                    file.string()));
  }
  return read_sentencepiece(file, read_frame(file.parent_path() / "tokenizer_config.json"));
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
  const std::string rest = emit();
  ids_.clear();
  emitted_ = 0;
  return rest;
}

}  // namespace qlora
