#include "qlora/text/tokenizer/json_node.h"

#include <algorithm>
#include <fstream>

#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/text/tokenizer/unicode.h"

namespace qlora {

namespace {
constexpr std::uintmax_t kMaxFileBytes = std::uintmax_t{512} << 20;

}  // namespace

JsonNode JsonNode::at(const std::string& key) const {
  if (!value_->is_object()) fail("must be an object");
  const auto found = value_->find(key);
  const std::string path = path_.empty() ? key : path_ + "." + key;
  if (found == value_->end()) fail(fmt::format("\"{}\" is missing", key));
  return JsonNode(*found, file_, path);
}

std::optional<JsonNode> JsonNode::find(const std::string& key) const {
  if (!value_->is_object()) fail("must be an object");
  const auto found = value_->find(key);
  if (found == value_->end() || found->is_null()) return std::nullopt;
  return at(key);
}

JsonNode JsonNode::item(std::size_t index) const {
  return JsonNode((*value_)[index], file_, fmt::format("{}[{}]", path_, index));
}

std::vector<JsonNode> JsonNode::items() const {
  if (!value_->is_array()) fail("must be an array");
  std::vector<JsonNode> out;
  for (std::size_t i = 0; i < value_->size(); ++i) out.push_back(item(i));
  return out;
}

const std::string& JsonNode::text() const {
  if (!value_->is_string()) fail("must be a string");
  return value_->get_ref<const std::string&>();
}

char32_t JsonNode::character() const {
  const std::string& all = text();
  if (all.empty() || code_point_at(all, 0).length != all.size()) fail("must be exactly one character");
  return code_point_at(all, 0).value;
}

bool JsonNode::flag() const {
  if (!value_->is_boolean()) fail("must be true or false");
  return value_->get<bool>();
}

std::int64_t JsonNode::integer(std::int64_t low, std::int64_t high) const {
  if (!value_->is_number_integer()) fail("must be an integer");
  const bool huge = value_->is_number_unsigned() && value_->get<std::uint64_t>() > INT64_MAX;
  const std::int64_t number = huge ? INT64_MAX : value_->get<std::int64_t>();
  if (number < low || number > high) {
    fail(fmt::format("is {}, must lie between {} and {}", value_->dump(), low, high));
  }
  return number;
}

std::string JsonNode::text_or(const std::string& key, const std::string& fallback) const {
  const auto found = find(key);
  return found ? found->text() : fallback;
}

bool JsonNode::flag_or(const std::string& key, bool fallback) const {
  const auto found = find(key);
  return found ? found->flag() : fallback;
}

void JsonNode::fail(const std::string& what) const {
  throw DataError(fmt::format("{}: {}: {}", *file_, path_.empty() ? "the file" : path_, what));
}

std::string read_tokenizer_bytes(const std::filesystem::path& path) {
  const std::string file = path.string();
  std::error_code error;
  if (!std::filesystem::is_regular_file(file, error)) throw DataError(fmt::format("{}: is no readable file", file));
  const std::uintmax_t size = std::filesystem::file_size(file, error);
  if (error) throw DataError(fmt::format("{}: {}", file, error.message()));
  if (size > kMaxFileBytes) {
    throw DataError(fmt::format("{}: has {} bytes; a tokenizer may have at most {}", file, size, kMaxFileBytes));
  }
  std::ifstream stream(file, std::ios::binary);
  std::string text(size, '\0');
  if (!stream.read(text.data(), static_cast<std::streamsize>(size))) {
    throw DataError(fmt::format("{}: cannot be read", file));
  }
  return text;
}
nlohmann::json parse_tokenizer_json(std::string_view text, const std::string& file) {
  try {
    return nlohmann::json::parse(text);
  } catch (const nlohmann::json::parse_error& error) {
    const std::string_view before = text.substr(0, error.byte == 0 ? 0 : error.byte - 1);
    const auto line = 1 + std::count(before.begin(), before.end(), '\n');
    const std::size_t newline = before.rfind('\n');
    const std::size_t column = newline == std::string_view::npos ? before.size() + 1 : before.size() - newline;
    const std::string reason = error.what();
    const std::size_t colon = reason.find(": ");
    throw DataError(fmt::format("{}:{}:{}: is no JSON: {}", file, line, column,
                                replace_invalid_utf8(colon == std::string::npos ? reason : reason.substr(colon + 2))));
  } catch (const nlohmann::json::out_of_range& error) {  // a number such as 1e999
    throw DataError(fmt::format("{}: is no JSON that can be read: {}", file, error.what()));
  }
}

}  // namespace qlora
