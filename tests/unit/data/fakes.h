// Small stand-ins for a tokenizer and chat templates.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "qlora/core/error.h"
#include "qlora/data/row_encoder.h"

#include "support/temporary_folder.h"

namespace qlora::testing {

// A token a byte (its id), but for the special tokens below. Whole texts begin with <s>, and end with </s> if asked.
class ByteTokenizer : public Tokenizer {
 public:
  static constexpr std::int32_t kBos = 256, kEos = 257, kEnd = 258;
  explicit ByteTokenizer(bool adds_eos = false) : adds_eos_(adds_eos) {}

  Encoding encode(std::string_view text, bool add_special_tokens) const override {
    Encoding encoding;
    const auto add = [&](std::int32_t id, std::size_t begin, std::size_t end) {
      encoding.ids.push_back(id);
      encoding.spans.push_back({begin, end});
    };
    if (add_special_tokens) add(kBos, 0, 0);
    for (std::size_t at = 0; at < text.size();) {
      std::size_t size = 1;
      std::int32_t id = static_cast<unsigned char>(text[at]);
      for (const auto& [name, special] : kSpecial) {
        if (!text.substr(at).starts_with(name)) continue;
        id = special;
        size = name.size();
      }
      add(id, at, at + size);
      at += size;
    }
    if (add_special_tokens && adds_eos_) add(kEos, text.size(), text.size());
    return encoding;
  }
  std::string decode(std::span<const std::int32_t> ids, bool) const override {
    std::string text;
    for (const auto id : ids) text += token_of(id).value_or("?");
    return text;
  }
  std::int32_t vocabulary_size() const override { return 259; }
  std::optional<std::int32_t> id_of(std::string_view token) const override {
    for (const auto& [name, id] : kSpecial) {
      if (name == token) return id;
    }
    return token.size() == 1 ? std::optional<std::int32_t>(static_cast<unsigned char>(token[0])) : std::nullopt;
  }
  std::optional<std::string> token_of(std::int32_t id) const override {
    for (const auto& [name, special] : kSpecial) {
      if (special == id) return std::string(name);
    }
    return std::string(1, static_cast<char>(id));
  }
  bool is_special(std::int32_t id) const override { return id >= 256; }
  std::string fingerprint() const override { return adds_eos_ ? "bytes-eos" : "bytes"; }

 private:
  static constexpr std::pair<std::string_view, std::int32_t> kSpecial[] = {
      {"<s>", kBos}, {"</s>", kEos}, {"<|end|>", kEnd}};
  bool adds_eos_;
};

// A chat template that is a C++ function of the variables.
class FunctionTemplate : public ChatTemplate {
 public:
  explicit FunctionTemplate(std::function<std::string(const Json&)> body, std::string source = "function")
      : body_(std::move(body)), source_(std::move(source)) {}
  std::string render(const Json& variables) const override { return body_(variables); }
  const std::string& source() const override { return source_; }

 private:
  std::function<std::string(const Json&)> body_;
  std::string source_;
};

// "[role]content<|end|>\n" a turn, "[assistant]" to ask for one.
inline std::string render_turns(const Json& variables) {
  std::string text;
  for (const Json& turn : variables["messages"]) {
    text += "[" + turn["role"].get<std::string>() + "]" + turn["content"].get<std::string>() + "<|end|>\n";
  }
  return variables["add_generation_prompt"].get<bool>() ? text + "[assistant]" : text;
}

inline SpecialTokens chat_tokens() {
  return {.bos = "<s>", .eos = "<|end|>", .pad = {}, .unk = {}, .stop_ids = {ByteTokenizer::kEnd}};
}
inline SpecialTokens plain_tokens() {
  return {.bos = "<s>", .eos = "</s>", .pad = {}, .unk = {}, .stop_ids = {ByteTokenizer::kEos}};
}

inline RowEncoder chat_encoder(DataOptions options = {}) {
  return {std::make_shared<ByteTokenizer>(), chat_tokens(), std::make_shared<FunctionTemplate>(render_turns),
          std::move(options)};
}
inline RowEncoder plain_encoder(DataOptions options = {}) {
  return {std::make_shared<ByteTokenizer>(), plain_tokens(), nullptr, std::move(options)};
}

inline DatasetEntry entry_of(const std::string& path, std::optional<std::int64_t> limit = {}) {
  DatasetEntry entry;
  entry.path = path;
  entry.limit = limit;
  return entry;
}

inline Example chat(const std::vector<std::pair<std::string, std::string>>& turns) {
  Example example;
  example.place = "rows.jsonl:1";
  for (const auto& [role, content] : turns) example.messages.push_back(Json{{"role", role}, {"content", content}});
  return example;
}

// What the labelled tokens say.
inline std::string learnt(const EncodedRow& row) {
  std::vector<std::int32_t> ids;
  for (std::size_t i = 0; i < row.ids.size(); ++i) {
    if (row.labelled[i] != 0) ids.push_back(row.ids[i]);
  }
  return ByteTokenizer().decode(ids, false);
}

// The message of the error of class E that `action` throws; empty (and a failure) where it throws none.
template <class E>
std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const E& error) {
    return error.what();
  }
  ADD_FAILURE() << "no error was thrown";
  return "";
}

}  // namespace qlora::testing
