// nlohmann's parser with our promises: places in errors, no duplicate keys, bounded depth.
#include "qlora/core/json.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>
#include <vector>

#include <spdlog/fmt/fmt.h>

#include "qlora/core/error.h"

namespace qlora {
namespace {

constexpr std::size_t kDeepest = 200;

// "file:line:column" of a byte offset.
std::string place_of(std::string_view text, std::size_t offset, const std::string& origin) {
  const std::string_view before = text.substr(0, std::min(offset, text.size()));
  const auto line = std::count(before.begin(), before.end(), '\n') + 1;
  const std::size_t last_break = before.rfind('\n');
  const std::size_t column = last_break == std::string_view::npos ? before.size() : before.size() - last_break - 1;
  return fmt::format("{}:{}:{}", origin, line, std::max<std::size_t>(column, 1));
}

// "[json.exception.parse_error.101] parse error at line 1, column 5: syntax error ..." without its prefix.
std::string reason_of(const std::string& what) {
  const std::size_t start = what.find("column ");
  const std::size_t colon = what.find(": ", start == std::string::npos ? 0 : start);
  return colon == std::string::npos ? what : what.substr(colon + 2);
}

// Reads characters and knows how many were read: nlohmann's callbacks do not say where they are.
class CountingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountingIterator(const char* at, std::size_t& count) : at_(at), count_(&count) {}
  reference operator*() const { return *at_; }
  CountingIterator& operator++() {
    ++*count_;
    ++at_;
    return *this;
  }
  bool operator==(const CountingIterator& other) const { return at_ == other.at_; }
  bool operator!=(const CountingIterator& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  std::size_t* count_;
};

// Refuses while the parser runs, so that depth costs no memory.
class Watch {
 public:
  Watch(std::string_view text, const std::size_t& read, const std::string& origin)
      : text_(text), read_(read), origin_(origin) {}

  bool operator()(int /*depth*/, Json::parse_event_t event, Json& parsed) {
    switch (event) {
      case Json::parse_event_t::object_start:
        keys_.emplace_back();
        break;
      case Json::parse_event_t::array_start:
        ++arrays_;
        break;
      case Json::parse_event_t::object_end:
        keys_.pop_back();
        break;
      case Json::parse_event_t::array_end:
        --arrays_;
        break;
      case Json::parse_event_t::key:
        note_key(parsed.get<std::string>());
        break;
      case Json::parse_event_t::value:
        break;
    }
    if (keys_.size() + arrays_ > kDeepest)
      throw DataError(place_of(text_, read_, origin_) + ": JSON nested deeper than 200");
    return true;
  }

 private:
  void note_key(const std::string& key) {
    if (keys_.back().insert(key).second) return;
    const std::size_t start = read_ - std::min(read_, key.size() + 1);  // of the key, behind its opening quote
    throw DataError(fmt::format("{}: the key \"{}\" occurs twice in one object", place_of(text_, start, origin_), key));
  }

  std::string_view text_;
  const std::size_t& read_;
  const std::string& origin_;
  std::vector<std::set<std::string>> keys_;
  std::size_t arrays_ = 0;
};

}  // namespace

Json parse_json(std::string_view text, const std::string& origin) {
  try {
    std::size_t read = 0, ignored = 0;
    return Json::parse(CountingIterator(text.data(), read), CountingIterator(text.data() + text.size(), ignored),
                       Watch(text, read, origin));
  } catch (const Json::parse_error& error) {
    throw DataError(fmt::format("{}: not JSON: {}", place_of(text, error.byte, origin), reason_of(error.what())));
  } catch (const Json::out_of_range& error) {
    throw DataError(fmt::format("{}: not JSON: {}", origin, error.what()));
  }
}

Json read_json(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file || !std::filesystem::is_regular_file(path)) throw DataError(path.string() + ": no such file");
  std::ostringstream text;
  text << file.rdbuf();
  return parse_json(text.str(), path.string());
}

}  // namespace qlora
