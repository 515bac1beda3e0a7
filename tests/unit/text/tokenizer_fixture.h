// Small tokenizer.json files, written to a folder of the test's own.
#pragma once

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "qlora/core/error.h"
#include "qlora/text/tokenizer/byte_characters.h"
#include "qlora/text/tokenizer/json_tokenizer.h"

#include "support/temporary_folder.h"

namespace qlora {

inline nlohmann::json parsed(const char* text) {
  return nlohmann::json::parse(text);
}

class TokenizerFixture : public ::testing::Test {
 protected:
  std::filesystem::path write(const std::string& name, const std::string& text) const {
    return temporary_.write(name, text);
  }

  std::unique_ptr<JsonTokenizer> load(const nlohmann::json& document, bool raw_bytes = true) const {
    return JsonTokenizer::read(write("tokenizer.json", document.dump()), {.added = {}, .raw_bytes = raw_bytes});
  }

  // The message of the DataError that loading gives.
  std::string refusal(const std::string& text) const {
    try {
      JsonTokenizer::read(write("tokenizer.json", text));
    } catch (const DataError& error) {
      return error.what();
    }
    return "it was read";
  }
  std::string refusal(const nlohmann::json& document) const { return refusal(document.dump()); }

  // A byte-level BPE: 256 bytes, then the merges' results, in order.
  static nlohmann::json byte_level(const std::vector<std::pair<std::string, std::string>>& merges) {
    nlohmann::json vocab = nlohmann::json::object(), pairs = nlohmann::json::array();
    for (const std::string& character : byte_characters()) vocab[character] = vocab.size();
    for (const auto& [left, right] : merges) {
      if (!vocab.contains(left + right)) vocab[left + right] = vocab.size();
      pairs.push_back({left, right});
    }
    nlohmann::json document =
        parsed(R"({"version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null,
      "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true},
      "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true},
      "model": {"type": "BPE"}})");
    document["model"]["vocab"] = vocab;
    document["model"]["merges"] = pairs;
    return document;
  }

  // Characters a to e, U+2581, <unk>, all bytes; merges "▁ a" and "a b".
  static nlohmann::json byte_fallback() {
    nlohmann::json vocab = {{"<unk>", 0}, {"a", 1}, {"b", 2}, {"c", 3}, {"▁", 4}, {"▁a", 5}, {"ab", 6}, {"▁ab", 7}};
    for (int byte = 0; byte < 256; ++byte) {
      char name[8];
      std::snprintf(name, sizeof(name), "<0x%02X>", byte);
      vocab[name] = 8 + byte;
    }
    nlohmann::json document =
        parsed(R"({"version": "1.0", "added_tokens": [], "pre_tokenizer": null, "post_processor": null,
      "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
      "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
      "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
        "merges": ["▁ a", "a b", "▁a b"]}})");
    document["model"]["vocab"] = vocab;
    return document;
  }

  static nlohmann::json added(int id, const std::string& content) {
    return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
            {"rstrip", false}, {"normalized", false}, {"special", true}};
  }

  static std::vector<std::string> tokens(const Tokenizer& tokenizer, std::string_view text) {
    std::vector<std::string> out;
    for (const std::int32_t id : tokenizer.encode(text, false).ids) out.push_back(tokenizer.token_of(id).value());
    return out;
  }

  const TemporaryFolder temporary_;
  const std::filesystem::path folder_ = temporary_.path();
};

using Texts = std::vector<std::string>;

}  // namespace qlora
