// Brackets and strings of a sound text are counted; what they hold is left alone.
#include "qlora/core/json_edit.h"

#include <spdlog/fmt/fmt.h>

#include "qlora/core/error.h"

namespace qlora {
namespace {

struct Extent {
  std::size_t begin, end;  // bytes
};

// Of a member's value in the text of a sound object; npos, npos where it has no such member.
Extent member_extent(std::string_view object, const std::string& key) {
  constexpr auto kNone = std::string_view::npos;
  constexpr std::string_view kSpace = " \t\r\n";
  std::size_t depth = 0, begin = kNone, string_begin = 0, string_end = 0;
  for (std::size_t at = 0; at < object.size(); ++at) {
    const char c = object[at];
    if (c == '"') {
      string_begin = at;
      while (object[++at] != '"') at += object[at] == '\\';
      string_end = at + 1;
    } else if (c == ':' && depth == 1 && Json::parse(object.substr(string_begin, string_end - string_begin)) == key) {
      begin = object.find_first_not_of(kSpace, at + 1);
    } else if (begin != kNone && depth == 1 && (c == ',' || c == '}')) {
      return {begin, object.find_last_not_of(kSpace, at - 1) + 1};
    } else if (c == '{' || c == '[') {
      ++depth;
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return {kNone, kNone};
}

}  // namespace

std::string with_member(std::string_view text, const std::string& key, const Json& value, const std::string& origin) {
  const Json object = parse_json(text, origin);
  if (!object.is_object()) throw DataError(fmt::format("{}: must be a JSON object", origin));
  if (const auto old = object.find(key); old != object.end() && *old == value) return std::string(text);
  std::string result(text);
  const auto [begin, end] = member_extent(text, key);
  if (begin != std::string_view::npos) return result.replace(begin, end - begin, value.dump());
  const std::string member = fmt::format("\n  {}: {}{}", Json(key).dump(), value.dump(), object.empty() ? "\n" : ",");
  return result.insert(text.find('{') + 1, member);
}

}  // namespace qlora
