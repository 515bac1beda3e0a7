// yaml-cpp's nodes as our values; JSON as YAML.
#include "qlora/core/yaml.h"

#include <fstream>
#include <sstream>
#include <vector>

#include <spdlog/fmt/fmt.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include "qlora/core/error.h"

namespace qlora {
namespace {

constexpr int kMostValues = 100'000;

class Converter {
 public:
  explicit Converter(const std::string& origin) : origin_(origin) {}

  Value convert(const YAML::Node& node) {
    if (++count_ > kMostValues) throw UsageError(origin_ + ": has more than 100,000 values; are its aliases nested?");
    Value value;
    value.place = place(node);
    for (const YAML::Node& outer : outer_) {
      if (node.is(outer)) throw UsageError(value.place.text() + ": an alias stands inside of what it stands for");
    }
    outer_.push_back(node);
    if (node.IsScalar()) {
      value.text = node.Scalar();
      value.quoted = node.Tag() == "!";
      value.kind = Value::Kind::kScalar;
    } else if (node.IsSequence()) {
      value.kind = Value::Kind::kList;
      for (const YAML::Node& item : node) value.items.push_back(convert(item));
    } else if (node.IsMap()) {
      value.kind = Value::Kind::kMap;
      for (const auto& pair : node) value.entries.push_back(entry(pair.first, pair.second));
    }
    outer_.pop_back();
    return value;
  }

 private:
  Place place(const YAML::Node& node) const {
    const YAML::Mark mark = node.Mark();
    return {origin_, mark.line + 1, mark.column + 1};
  }

  Entry entry(const YAML::Node& key, const YAML::Node& value) {
    if (!key.IsScalar()) throw UsageError(place(key).text() + ": a key must be text");
    Entry made{key.Scalar(), place(key), convert(value)};
    // An empty value has no place of its own.
    if (made.value.kind == Value::Kind::kNull) made.value.place = made.place;
    return made;
  }

  const std::string& origin_;
  std::vector<YAML::Node> outer_;  // what the node in hand is part of
  int count_ = 0;
};

bool is_plain(const std::string& text) {
  constexpr std::string_view kInner = "_./-+";
  if (text.empty() || text == "null" || text == "Null" || text == "NULL" || text == "~") return false;
  if (text[0] == '-' || text[0] == '+') return false;
  for (const unsigned char c : text) {
    if (std::isalnum(c) == 0 && kInner.find(static_cast<char>(c)) == std::string_view::npos) return false;
  }
  return true;
}

// Hears where documents begin, and nothing else.
class DocumentStart : public YAML::EventHandler {
 public:
  std::optional<YAML::Mark> mark;

  void OnDocumentStart(const YAML::Mark& begin) override { mark = begin; }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t, const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {}
  void OnMapEnd() override {}
};

// Not by YAML::LoadAll: where text follows a document that begins none ("a: 1\n]"), it goes on for ever.
void refuse_more_than_one_document(const std::string& text, const std::string& origin) {
  std::istringstream stream(text);
  YAML::Parser parser(stream);
  DocumentStart first, second;
  if (!parser.HandleNextDocument(first) || !parser.HandleNextDocument(second)) return;
  const YAML::Mark mark = second.mark.value_or(YAML::Mark());
  throw UsageError(
      fmt::format("{}:{}:{}: the document has ended, and more follows", origin, mark.line + 1, mark.column + 1));
}

}  // namespace

Value parse_yaml(const std::string& text, const std::string& origin) {
  try {
    refuse_more_than_one_document(text, origin);
    return Converter(origin).convert(YAML::Load(text));
  } catch (const YAML::Exception& error) {
    throw UsageError(
        fmt::format("{}:{}:{}: not YAML: {}", origin, error.mark.line + 1, error.mark.column + 1, error.msg));
  }
}

Value read_yaml(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (std::filesystem::is_directory(path)) throw UsageError(path.string() + ": cannot be read: it is a folder");
  if (!file) throw UsageError(path.string() + ": cannot be read: no such file");
  text << file.rdbuf();
  return parse_yaml(text.str(), path.string());
}

std::string yaml_line(const Json& value) {
  if (value.is_string() && is_plain(value.get<std::string>())) return value.get<std::string>();
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace qlora
