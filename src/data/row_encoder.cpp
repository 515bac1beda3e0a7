// Encoding: rendered text becomes token ids and labels.
#include "qlora/data/row_encoder.h"

#include <algorithm>
#include <numeric>

#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/data/prompt_template.h"
#include "qlora/text/chat_template_builtin.h"

namespace qlora {
namespace {

std::optional<std::int32_t> id_of(const Tokenizer& tokenizer, const std::optional<std::string>& token) {
  return token ? tokenizer.id_of(*token) : std::nullopt;
}

bool is_white(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c == ' ' || (c >= '\t' && c <= '\r'); });
}

bool uses_schemas(const DataOptions& options) {
  return options.prompt_template.empty() ? options.prompt_style != PromptStyle::kQuestion
                                         : prompt_template_uses(options.prompt_template, "schema");
}

FormatContext context_of(const DataOptions& options, const ChatTemplate* chat_template, const Schemas* schemas) {
  return {.chat = chat_template != nullptr,
          .input_turn = chat_template != nullptr && chat_template->source() == builtin_chat_template("alpaca"),
          .prompt_style = options.prompt_style,
          .prompt_template = options.prompt_template,
          .schemas = schemas};
}

// A file beside the data is found by its usual name where none is given.
std::filesystem::path beside_data(const std::string& named, const DataOptions& options, const char* usual) {
  if (!named.empty()) return named;
  for (const auto* entries : {&options.dataset, &options.eval_dataset}) {
    for (const auto& entry : *entries) {
      const std::filesystem::path path = entry.path;
      const auto folder = std::filesystem::is_directory(path) ? path : path.parent_path();
      if (std::filesystem::exists(folder / usual)) return folder / usual;
    }
  }
  return {};
}

std::unique_ptr<const Schemas> open_schemas(const DataOptions& options) {
  if (!uses_schemas(options)) return std::make_unique<const Schemas>(options.tables, options.db_dir);
  return std::make_unique<const Schemas>(beside_data(options.tables, options, "tables.json"),
                                         beside_data(options.db_dir, options, "database"));
}

std::shared_ptr<const ChatTemplate> choose_template(const std::filesystem::path& model_folder,
                                                    const DataOptions& options,
                                                    const std::vector<const Dataset*>& datasets) {
  const FormatContext context = context_of(options, nullptr, nullptr);
  for (const Dataset* dataset : datasets) {
    for (const RowFormat* format : dataset->formats()) {
      if (format->needs_chat(context)) return choose_chat_template(options.chat_template, model_folder);
    }
  }
  return options.chat_template == "auto" ? load_chat_template(model_folder)
                                         : choose_chat_template(options.chat_template, model_folder);
}

}  // namespace

std::int64_t EncodedRow::label_tokens() const {
  return std::accumulate(labelled.begin(), labelled.end(), std::int64_t{0});
}

std::int64_t EncodedRow::targets() const {
  return labelled.empty() ? 0 : label_tokens() - labelled[0];
}

void EncodedRow::truncate(std::int64_t tokens) {
  const auto count = static_cast<std::size_t>(tokens);
  ids.resize(std::min(ids.size(), count));
  labelled.resize(ids.size());
  spans.resize(std::min(spans.size(), count));
  prompt_tokens = std::min(prompt_tokens, static_cast<std::int32_t>(tokens));
}

RowEncoder::RowEncoder(const std::filesystem::path& model_folder, const DataOptions& options,
                       const std::vector<const Dataset*>& datasets)
    : RowEncoder(Tokenizer::load(model_folder), SpecialTokens{}, choose_template(model_folder, options, datasets),
                 options) {
  set_special_tokens(load_special_tokens(model_folder, *tokenizer_));
  if (options.chat_template != "auto") stop_at_template_end();
}

RowEncoder::RowEncoder(std::shared_ptr<const Tokenizer> tokenizer, SpecialTokens special,
                       std::shared_ptr<const ChatTemplate> chat_template, const DataOptions& options)
    : tokenizer_(std::move(tokenizer)),
      template_(std::move(chat_template)),
      options_(options),
      schemas_(open_schemas(options)),
      context_(context_of(options, template_.get(), schemas_.get())) {
  set_special_tokens(std::move(special));
}

void RowEncoder::set_special_tokens(SpecialTokens special) {
  special_ = std::move(special);
  bos_ = id_of(*tokenizer_, special_.bos);
  eos_ = id_of(*tokenizer_, special_.eos);
}

std::vector<std::int32_t> RowEncoder::stop_ids() const {
  std::vector<std::int32_t> ids = special_.stop_ids;
  if (eos_ && std::find(ids.begin(), ids.end(), *eos_) == ids.end()) ids.push_back(*eos_);
  return ids;
}

void RowEncoder::stop_at_template_end() {
  Example chat;
  chat.kind = Example::Kind::kChat;
  chat.messages = {{{"role", "user"}, {"content", "?"}}, {{"role", "assistant"}, {"content", "!"}}};
  std::int32_t end = EncodedRow::kNoEndToken;
  try {
    end = encode(render(chat)).end_token;
  } catch (const DataError&) {
    return;  // this template takes other conversations than this one; what its rows end in, prepare checks
  }
  auto& stops = special_.stop_ids;
  if (end == EncodedRow::kNoEndToken || std::find(stops.begin(), stops.end(), end) != stops.end()) return;
  stops.insert(stops.begin(), end);
  adds_stop_ = true;
}

bool RowEncoder::uses_schemas() const {
  return qlora::uses_schemas(options_);
}

Example RowEncoder::example(const Dataset& dataset, std::size_t i) const {
  return dataset.example(i, context_, options_.system_prompt);
}

// The tokenizer's own BOS or EOS is left out where the text brings it already.
Encoding RowEncoder::encode_text(const std::string& text, bool add_special_tokens) const {
  Encoding encoding = tokenizer_->encode(text, add_special_tokens);
  if (!add_special_tokens) return encoding;
  auto& ids = encoding.ids;
  auto& spans = encoding.spans;
  const auto added = [&](std::size_t i) { return spans[i].begin == spans[i].end; };
  if (ids.size() > 1 && bos_ && ids[0] == *bos_ && ids[1] == *bos_ && added(0)) {
    ids.erase(ids.begin());
    spans.erase(spans.begin());
  }
  const std::size_t size = ids.size();
  if (size > 1 && eos_ && ids[size - 1] == *eos_ && ids[size - 2] == *eos_ && added(size - 1)) {
    ids.pop_back();
    spans.pop_back();
  }
  return encoding;
}

bool RowEncoder::is_end_token(std::int32_t id) const {
  if (tokenizer_->is_special(id)) return true;
  const auto stops = stop_ids();
  return std::find(stops.begin(), stops.end(), id) != stops.end();
}

void RowEncoder::label_answers(const Rendered& rendered, EncodedRow& row) const {
  const std::string_view text = rendered.text;
  std::size_t token = 0;
  for (const ByteSpan& answer : rendered.answers) {
    const auto overlaps = [&](const ByteSpan& span) {
      return span.begin < span.end && span.begin < answer.end && span.end > answer.begin;
    };
    while (token < row.ids.size() && !overlaps(row.spans[token])) ++token;
    const std::size_t first = token;
    while (token < row.ids.size() && overlaps(row.spans[token])) ++token;
    std::size_t end = token;
    while (end > first &&
           is_white(text.substr(row.spans[end - 1].begin, row.spans[end - 1].end - row.spans[end - 1].begin))) {
      --end;
    }
    const bool ends = end > first && is_end_token(row.ids[end - 1]);
    row.end_token = ends ? row.ids[end - 1] : EncodedRow::kNoEndToken;
    row.prompt_tokens = static_cast<std::int32_t>(first);
    std::fill(row.labelled.begin() + static_cast<std::ptrdiff_t>(first),
              row.labelled.begin() + static_cast<std::ptrdiff_t>(ends ? end : token), std::uint8_t{1});
  }
}

EncodedRow RowEncoder::encode(const Rendered& rendered) const {
  Encoding encoding = encode_text(rendered.text, rendered.add_special_tokens);
  EncodedRow row;
  row.ids = std::move(encoding.ids);
  row.spans = std::move(encoding.spans);
  row.labelled.assign(row.ids.size(), 0);
  if (!rendered.learn_all) label_answers(rendered, row);
  if (rendered.learn_all || !options_.assistant_only_loss.value_or(true)) {
    std::fill(row.labelled.begin(), row.labelled.end(), std::uint8_t{1});
  }
  return row;
}

std::vector<std::int32_t> RowEncoder::encode_prompt(const Rendered& rendered) const {
  if (!rendered.prompt) throw DataError("a row of format text has no prompt to generate from");
  auto [ids, spans] = encode_text(*rendered.prompt, rendered.add_special_tokens);
  // A post-processing that ends texts by EOS means whole ones: generation goes on.
  const bool ended = !ids.empty() && eos_ && ids.back() == *eos_ && spans.back().begin == spans.back().end;
  if (ended) ids.pop_back();
  return ids;
}

}  // namespace qlora
