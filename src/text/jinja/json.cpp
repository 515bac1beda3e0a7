// json.dumps over template values and over the input as it is.
#include "qlora/text/jinja/json.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "qlora/text/jinja/unicode.h"

namespace qlora::jinja {
namespace {

class JsonWriter {
 public:
  JsonWriter(Budget& budget, std::string& out, const JsonStyle& style) : budget_(budget), out_(out), style_(style) {}

  void write(const Value& value) {
    const std::size_t before = out_.size();
    budget_.step();
    switch (value.kind()) {
      case Kind::kNone:
        out_ += "null";
        break;
      case Kind::kBool:
        out_ += value.as_bool() ? "true" : "false";
        break;
      case Kind::kInt:
        fmt::format_to(std::back_inserter(out_), "{}", value.as_integer());
        break;
      case Kind::kFloat:
        write_float(value.as_number());
        break;
      case Kind::kString:
        write_string(value.text());
        break;
      case Kind::kList:
      case Kind::kTuple:
        write_list(value);
        return;
      case Kind::kDict:
        write_dict(value);
        return;
      default:
        fail(fmt::format("Object of type {} is not JSON serializable", type_name(value)));
    }
    budget_.bytes(out_.size() - before);
  }

 private:
  void write_float(double value) {
    if (std::isnan(value)) {
      out_ += "NaN";
    } else if (std::isinf(value)) {
      out_ += value < 0 ? "-Infinity" : "Infinity";
    } else {
      append_float(out_, value);
    }
  }

  void write_string(std::string_view text) {
    out_ += '"';
    std::size_t plain = 0;
    for (std::size_t at = 0; at < text.size(); ++at) {
      const auto c = static_cast<unsigned char>(text[at]);
      if (c >= 0x20 && c != '"' && c != '\\' && (c < 0x7f || !style_.ensure_ascii)) continue;
      out_ += text.substr(plain, at - plain);
      if (c < 0x80) {
        write_escape(c);
      } else {
        write_escape(unicode::decode(text, at));
        at += unicode::sequence_length(text, at) - 1;
      }
      plain = at + 1;
    }
    out_ += text.substr(plain);
    out_ += '"';
  }

  void write_escape(char32_t c) {
    constexpr std::string_view kShort = "\"\"\\\\\nn\rr\tt\ff\bb";
    for (std::size_t i = 0; i < kShort.size(); i += 2) {
      if (c == static_cast<char32_t>(kShort[i])) {
        out_ += '\\';
        out_ += kShort[i + 1];
        return;
      }
    }
    const auto code = static_cast<std::uint32_t>(c);
    if (code < 0x10000) {
      out_ += fmt::format("\\u{:04x}", code);
    } else {
      out_ += fmt::format("\\u{:04x}\\u{:04x}", 0xd800 + ((code - 0x10000) >> 10), 0xdc00 + ((code - 0x10000) & 0x3ff));
    }
  }

  void enter() {
    if (++depth_ > Budget::kNesting) fail(fmt::format("values are nested deeper than {}", Budget::kNesting));
  }

  void separate(bool first) {
    if (!first) out_ += style_.item_separator;
    break_line();
  }

  void break_line() {
    if (!style_.indent) return;
    out_ += '\n';
    for (int i = 0; i < depth_; ++i) out_ += *style_.indent;
    budget_.bytes(static_cast<std::size_t>(depth_) * style_.indent->size());
  }

  void write_list(const Value& value) {
    if (value.size() == 0) {
      out_ += "[]";
      return;
    }
    out_ += '[';
    enter();
    for (std::size_t i = 0; i < value.size(); ++i) {
      separate(i == 0);
      write(value.item(i));
    }
    --depth_;
    break_line();
    out_ += ']';
  }

  void write_dict(const Value& value) {
    if (value.size() == 0) {
      out_ += "{}";
      return;
    }
    out_ += '{';
    enter();
    const std::vector<std::size_t> order = key_order(value);
    for (std::size_t i = 0; i < value.size(); ++i) {
      const std::size_t at = order.empty() ? i : order[i];
      separate(i == 0);
      write_key(value.key_at(at));
      out_ += style_.key_separator;
      write(value.value_at(at));
    }
    --depth_;
    break_line();
    out_ += '}';
  }

  std::vector<std::size_t> key_order(const Value& dict) {
    if (!style_.sort_keys) return {};
    std::vector<std::size_t> order(dict.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return compare(budget_, dict.key_at(a), dict.key_at(b), "<") < 0;
    });
    return order;
  }

  void write_key(const Value& key) {
    if (key.is_string()) {
      write_string(key.text());
    } else if (key.is_number() || key.is(Kind::kNone)) {
      out_ += '"';
      write(key);
      out_ += '"';
    } else {
      fail(fmt::format("keys must be str, int, float, bool or None, not {}", type_name(key)));
    }
  }

  Budget& budget_;
  std::string& out_;
  const JsonStyle& style_;
  int depth_ = 0;
};

}  // namespace

void append_json(Budget& budget, std::string& out, const Value& value, const JsonStyle& style) {
  JsonWriter(budget, out, style).write(value);
}

}  // namespace qlora::jinja
