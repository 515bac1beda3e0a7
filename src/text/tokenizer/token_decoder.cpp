#include "qlora/text/tokenizer/token_decoder.h"

#include <algorithm>
#include <map>

#include "qlora/text/tokenizer/byte_characters.h"
#include "qlora/text/tokenizer/pattern_field.h"
#include "qlora/text/tokenizer/unicode.h"

namespace qlora {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

class DecoderSequence final : public TokenDecoder {
 public:
  explicit DecoderSequence(const JsonNode& node) {
    for (const JsonNode& part : node.at("decoders").items()) parts_.push_back(make_token_decoder(part));
  }
  void apply(std::vector<std::string>& tokens) const override {
    for (const auto& part : parts_) part->apply(tokens);
  }
  bool joins_byte_tokens() const override {
    return std::any_of(parts_.begin(), parts_.end(), [](const auto& part) { return part->joins_byte_tokens(); });
  }

 private:
  std::vector<std::unique_ptr<TokenDecoder>> parts_;
};

class ByteLevelDecoder final : public TokenDecoder {
 public:
  void apply(std::vector<std::string>& tokens) const override {
    std::string bytes;
    for (const std::string& token : tokens) bytes += bytes_of_characters(token).value_or(token);
    tokens.assign(1, replace_invalid_utf8(bytes));
  }
};

// Neighbouring "<0xNN>" become the text that their bytes are, or one U+FFFD each where they are none.
class ByteFallbackDecoder final : public TokenDecoder {
 public:
  void apply(std::vector<std::string>& tokens) const override {
    std::vector<std::string> out;
    std::string bytes;
    const auto flush = [&] {
      if (find_invalid_utf8(bytes) == bytes.size()) {
        if (!bytes.empty()) out.push_back(bytes);
      } else {
        out.insert(out.end(), bytes.size(), std::string(kReplacement));
      }
      bytes.clear();
    };
    for (std::string& token : tokens) {
      const int byte = byte_of_token(token);
      if (byte >= 0) {
        bytes.push_back(static_cast<char>(byte));
        continue;
      }
      flush();
      out.push_back(std::move(token));
    }
    flush();
    tokens = std::move(out);
  }
  bool joins_byte_tokens() const override { return true; }
};

class FuseDecoder final : public TokenDecoder {
 public:
  void apply(std::vector<std::string>& tokens) const override {
    std::string whole;
    for (const std::string& token : tokens) whole += token;
    tokens.assign(1, whole);
  }
};

class ReplaceDecoder final : public TokenDecoder {
 public:
  explicit ReplaceDecoder(const JsonNode& node) : pattern_(node.at("pattern")), content_(node.at("content").text()) {}
  void apply(std::vector<std::string>& tokens) const override {
    for (std::string& token : tokens) {
      std::string out;
      std::size_t last = 0;
      if (token.empty()) continue;
      pattern_.for_each_match(token, [&](ByteSpan match) {
        out.append(token, last, match.begin - last).append(content_);
        last = match.end;
      });
      if (last == 0 && out.empty()) continue;
      token = out.append(token, last);
    }
  }

 private:
  PatternField pattern_;
  std::string content_;
};

class StripDecoder final : public TokenDecoder {
 public:
  explicit StripDecoder(const JsonNode& node)
      : start_(static_cast<std::size_t>(node.at("start").integer(0, INT32_MAX))),
        stop_(static_cast<std::size_t>(node.at("stop").integer(0, INT32_MAX))) {
    append_utf8(content_, node.at("content").character());
  }
  void apply(std::vector<std::string>& tokens) const override {
    for (std::string& token : tokens) {
      std::size_t begin = 0, end = token.size();
      const std::size_t size = content_.size();
      for (std::size_t i = 0; i < start_ && token.compare(begin, size, content_) == 0; ++i) begin += size;
      for (std::size_t i = 0; i < stop_ && end >= begin + size && token.compare(end - size, size, content_) == 0; ++i) {
        end -= size;
      }
      token = token.substr(begin, end - begin);
    }
  }

 private:
  std::string content_;
  std::size_t start_, stop_;
};

class MetaspaceDecoder final : public TokenDecoder {
 public:
  explicit MetaspaceDecoder(const JsonNode& node) {
    append_utf8(mark_, node.at("replacement").character());
    const bool prefixed = node.flag_or("add_prefix_space", true) && node.text_or("prepend_scheme", "always") != "never";
    drop_first_ = prefixed;
  }
  void apply(std::vector<std::string>& tokens) const override {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      const std::string_view with = i == 0 && drop_first_ ? "" : " ";
      std::string out;
      std::size_t last = 0;
      for (std::size_t at = tokens[i].find(mark_); at != std::string::npos; at = tokens[i].find(mark_, last)) {
        out.append(tokens[i], last, at - last).append(with);
        last = at + mark_.size();
      }
      tokens[i] = out.append(tokens[i], last);
    }
  }

 private:
  std::string mark_;
  bool drop_first_ = true;
};

template <typename Decoder>
std::unique_ptr<TokenDecoder> make_from(const JsonNode& node) {
  return std::make_unique<Decoder>(node);
}
template <typename Decoder>
std::unique_ptr<TokenDecoder> make_plain(const JsonNode&) {
  return std::make_unique<Decoder>();
}

using Factory = std::unique_ptr<TokenDecoder> (*)(const JsonNode&);
const std::map<std::string, Factory> kDecoders = {
    {"Sequence", make_from<DecoderSequence>},
    {"ByteLevel", make_plain<ByteLevelDecoder>},
    {"ByteFallback", make_plain<ByteFallbackDecoder>},
    {"Fuse", make_plain<FuseDecoder>},
    {"Replace", make_from<ReplaceDecoder>},
    {"Strip", make_from<StripDecoder>},
    {"Metaspace", make_from<MetaspaceDecoder>},
};

}  // namespace

int byte_of_token(std::string_view token) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return -1;
  const auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    const char lower = static_cast<char>(c | 0x20);
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
  };
  const int high = digit(token[3]), low = digit(token[4]);
  if (token[3] == '+' && low >= 0) return low;  // as Rust reads numbers
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

std::unique_ptr<TokenDecoder> make_token_decoder(const JsonNode& node) {
  return make_by_type(node, node.type(), "decoder", kDecoders);
}

}  // namespace qlora
