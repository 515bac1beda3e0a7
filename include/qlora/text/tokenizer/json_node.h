// A value of a tokenizer.json with its file and path, so that every complaint says where.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace qlora {

// Cheap to copy; the document must outlive it. Every accessor throws DataError "file: path: what" on another type.
class JsonNode {
 public:
  JsonNode(const nlohmann::json& value, std::string file, std::string path = "")
      : value_(&value), file_(std::make_shared<std::string>(std::move(file))), path_(std::move(path)) {}

  JsonNode at(const std::string& key) const;                   // required
  std::optional<JsonNode> find(const std::string& key) const;  // none where absent or null
  std::vector<JsonNode> items() const;                         // of an array
  JsonNode item(std::size_t index) const;

  const std::string& text() const;
  char32_t character() const;  // a text of exactly one character
  bool flag() const;
  std::int64_t integer(std::int64_t low, std::int64_t high) const;
  const std::string& type() const { return at("type").text(); }

  std::string text_or(const std::string& key, const std::string& fallback) const;
  bool flag_or(const std::string& key, bool fallback) const;

  const nlohmann::json& value() const { return *value_; }
  const std::string& path() const { return path_; }
  [[noreturn]] void fail(const std::string& what) const;

 private:
  JsonNode(const nlohmann::json& value, std::shared_ptr<std::string> file, std::string path)
      : value_(&value), file_(std::move(file)), path_(std::move(path)) {}
  const nlohmann::json* value_;
  std::shared_ptr<std::string> file_;
  std::string path_;
};

// What `table` makes of a node by its field "type"; where that is not in it, a DataError that lists what is.
template <typename Made>
Made make_by_type(const JsonNode& node, const std::string& type, const char* kind,
                  const std::map<std::string, Made (*)(const JsonNode&)>& table) {
  const auto found = table.find(type);
  if (found != table.end()) return found->second(node);
  std::string known;
  for (const auto& entry : table) known += (known.empty() ? "" : ", ") + entry.first;
  node.at("type").fail("the " + std::string(kind) + " \"" + type + "\" is not supported; known are " + known);
}

// The bytes of a regular file of at most 512 MiB; DataError naming it otherwise.
std::string read_tokenizer_bytes(const std::filesystem::path& file);

// Throws DataError "file:line:column: ..." where the text is no JSON.
nlohmann::json parse_tokenizer_json(std::string_view text, const std::string& file);

}  // namespace qlora
