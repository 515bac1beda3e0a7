// Text with values put in: the % operator, str.format, format specifications.
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include <fmt/format.h>

#include "qlora/text/jinja/runtime.h"
#include "qlora/text/jinja/unicode.h"

namespace qlora::jinja {
namespace {

constexpr std::int64_t kMaxWidth = 1'000'000;

std::string print_float(double value, char type, int precision, bool alternate) {
  char format[16];
  std::snprintf(format, sizeof(format), "%%%s.*%c", alternate ? "#" : "", type);
  std::string text(512 + static_cast<std::size_t>(precision), '\0');
  const int length = std::snprintf(text.data(), text.size(), format, precision, value);
  text.resize(static_cast<std::size_t>(length));
  return text;
}

std::string print_integer(std::int64_t value, char type, bool alternate) {
  const bool negative = value < 0;
  const std::uint64_t magnitude = negative ? 0 - static_cast<std::uint64_t>(value) : static_cast<std::uint64_t>(value);
  std::string digits, prefix;
  if (type == 'x' || type == 'X') {
    digits = type == 'x' ? fmt::format("{:x}", magnitude) : fmt::format("{:X}", magnitude);
    prefix = type == 'x' ? "0x" : "0X";
  } else if (type == 'o') {
    digits = fmt::format("{:o}", magnitude);
    prefix = "0o";
  } else if (type == 'b') {
    digits = fmt::format("{:b}", magnitude);
    prefix = "0b";
  } else {
    digits = fmt::format("{}", magnitude);
  }
  return (negative ? "-" : "") + (alternate ? prefix : "") + digits;
}

struct Layout {
  std::string fill = " ";
  char align = 0;  // '<', '>', '^', '='
  char sign = '-';
  bool alternate = false;
  std::int64_t width = 0;
  char grouping = 0;
  std::int64_t precision = -1;
  char type = 0;
};

std::string laid_out(Render& render, std::string text, const Layout& layout, char default_align) {
  const auto length = static_cast<std::int64_t>(unicode::length(text));
  const std::int64_t missing = layout.width - length;
  if (missing <= 0) return text;
  render.bytes(static_cast<std::size_t>(missing) * layout.fill.size());
  const auto filler = [&](std::int64_t count) {
    std::string out;
    for (; count > 0; --count) out += layout.fill;
    return out;
  };
  const char align = layout.align ? layout.align : default_align;
  if (align == '<') return text + filler(missing);
  if (align == '^') return filler(missing / 2) + text + filler(missing - missing / 2);
  if (align == '=') {
    std::size_t head = !text.empty() && (text[0] == '-' || text[0] == '+' || text[0] == ' ') ? 1 : 0;
    if (text.size() > head + 1 && text[head] == '0' &&
        std::string_view("xXob").find(text[head + 1]) != std::string::npos) {
      head += 2;
    }
    return text.substr(0, head) + filler(missing) + text.substr(head);
  }
  return filler(missing) + text;
}

std::string with_sign(std::string text, char sign) {
  if (text.starts_with("-") || sign == '-' || sign == 0) return text;
  return sign + text;
}

// --- % ---

class PercentFormatter {
 public:
  PercentFormatter(Render& render, std::string_view text, const Value& values)
      : render_(render), text_(text), values_(values) {}

  std::string run() {
    while (at_ < text_.size()) {
      const std::size_t percent = std::min(text_.find('%', at_), text_.size());
      out_ += text_.substr(at_, percent - at_);
      at_ = percent + 1;
      if (percent < text_.size()) conversion();
    }
    const bool one = !values_.is(Kind::kTuple);
    const bool mapping = values_.is(Kind::kDict) || values_.is(Kind::kList);
    if (one ? next_ == 0 && !mapping && !named_ : next_ < values_.size()) {
      fail("not all arguments converted during string formatting");
    }
    return std::move(out_);
  }

 private:
  char peek() const {
    if (at_ >= text_.size()) fail("incomplete format");
    return text_[at_];
  }

  Value next_value() {
    if (values_.is(Kind::kTuple)) {
      if (next_ >= values_.size()) fail("not enough arguments for format string");
      return values_.item(next_++);
    }
    if (next_++ > 0) fail("not enough arguments for format string");
    return values_;
  }

  std::int64_t number(Layout* layout) {
    if (peek() == '*') {
      ++at_;
      const std::int64_t value = integer_argument(next_value(), "* wants int");
      if (layout && value < 0) layout->align = '<';
      return std::min(value < 0 && layout ? -value : value, kMaxWidth);
    }
    std::int64_t value = 0;
    while (peek() >= '0' && peek() <= '9') {
      value = std::min(value * 10 + (text_[at_++] - '0'), kMaxWidth);
    }
    return value;
  }

  void conversion() {
    Layout layout;
    Value value;
    if (peek() == '(') {
      const std::size_t end = text_.find(')', at_);
      if (end == std::string_view::npos) fail("incomplete format key");
      if (!values_.is(Kind::kDict)) fail("format requires a mapping");
      const std::string_view key = text_.substr(at_ + 1, end - at_ - 1);
      if (!values_.find(key, value)) fail(fmt::format("format: there is no key '{}'", key));
      named_ = true;
      at_ = end + 1;
    }
    bool zero = false;
    for (; std::string_view("#0- +").find(peek()) != std::string_view::npos; ++at_) {
      const char flag = text_[at_];
      if (flag == '-') layout.align = '<';
      if (flag == '0') zero = true;
      if (flag == '#') layout.alternate = true;
      if (flag == '+') layout.sign = '+';
      if (flag == ' ' && layout.sign == '-') layout.sign = ' ';
    }
    layout.width = number(&layout);
    if (peek() == '.') {
      ++at_;
      layout.precision = std::max<std::int64_t>(number(nullptr), 0);
    }
    while (std::string_view("hlL").find(peek()) != std::string_view::npos) ++at_;
    const char type = text_[at_++];
    if (type == '%') {
      out_ += '%';
      return;
    }
    if (value.is(Kind::kMissing)) value = next_value();
    if (zero && layout.align != '<' && std::string_view("diouxXeEfFgG").find(type) != std::string_view::npos) {
      layout.fill = "0";
      layout.align = '=';
    }
    out_ += laid_out(render_, converted(value, type, layout), layout, '>');
  }

  std::string converted(const Value& value, char type, const Layout& layout) {
    switch (type) {
      case 's':
      case 'r':
      case 'a':
        return text(value, type, layout);
      case 'c':
        return character(value);
      case 'd':
      case 'i':
      case 'u':
      case 'x':
      case 'X':
      case 'o':
        return integer(value, type, layout);
      case 'e':
      case 'E':
      case 'f':
      case 'F':
      case 'g':
      case 'G': {
        if (value.is_undefined()) fail_undefined(value);
        if (!value.is_number()) fail(fmt::format("must be real number, not {}", type_name(value)));
        const int precision = layout.precision < 0 ? 6 : static_cast<int>(layout.precision);
        return with_sign(print_float(value.as_number(), type, precision, layout.alternate), layout.sign);
      }
      default:
        fail(fmt::format("unsupported format character '{}'", type));
    }
  }

  std::string text(const Value& value, char type, const Layout& layout) {
    std::string printed = type == 's' ? to_str(render_, value) : to_repr(render_, value);
    if (layout.precision >= 0) printed.resize(unicode::offset(printed, static_cast<std::size_t>(layout.precision)));
    render_.bytes(printed.size());
    return printed;
  }

  std::string integer(const Value& value, char type, const Layout& layout) {
    if (value.is_undefined()) fail_undefined(value);
    const bool decimal = type == 'd' || type == 'i' || type == 'u';
    std::int64_t number = 0;
    if (value.is_integral()) {
      number = value.as_integer();
    } else if (value.is(Kind::kFloat) && decimal && std::abs(value.as_number()) < 9.2e18) {
      number = static_cast<std::int64_t>(value.as_number());
    } else {
      fail(fmt::format("%{} format: an integer is required, not {}", type, type_name(value)));
    }
    std::string digits = print_integer(number, decimal ? 'd' : type, layout.alternate);
    const std::size_t head = digits.starts_with("-") ? 1 : 0;
    const std::int64_t missing = layout.precision - static_cast<std::int64_t>(digits.size() - head);
    if (missing > 0) digits.insert(head, static_cast<std::size_t>(missing), '0');
    return with_sign(digits, layout.sign);
  }

  std::string character(const Value& value) {
    std::string out;
    if (value.is_string() && unicode::length(value.text()) == 1) return std::string(value.text());
    const std::int64_t code = value.is_integral() ? value.as_integer() : -1;
    if (code < 0 || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) fail("%c requires int or char");
    unicode::append(out, static_cast<char32_t>(code));
    return out;
  }

  Render& render_;
  std::string_view text_;
  const Value& values_;
  std::size_t at_ = 0;
  std::size_t next_ = 0;
  bool named_ = false;
  std::string out_;
};

// --- format specifications ---

bool is_align(char32_t c) {
  return c == '<' || c == '>' || c == '^' || c == '=';
}

std::int64_t parse_width(std::string_view text, std::size_t& at) {
  std::int64_t value = -1;
  for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at) {
    value = std::min((value < 0 ? 0 : value) * 10 + (text[at] - '0'), kMaxWidth);
  }
  return value;
}

Layout parse_specification(std::string_view text) {
  Layout layout;
  std::size_t at = 0;
  if (!text.empty()) {
    const std::size_t first = unicode::sequence_length(text, 0);
    if (first < text.size() && is_align(static_cast<unsigned char>(text[first]))) {
      layout.fill = text.substr(0, first);
      layout.align = text[first];
      at = first + 1;
    } else if (is_align(static_cast<unsigned char>(text[0]))) {
      layout.align = text[0];
      at = 1;
    }
  }
  const auto take = [&](std::string_view set) {
    return at < text.size() && set.find(text[at]) != set.npos ? text[at++] : '\0';
  };
  if (const char sign = take("+- ")) layout.sign = sign;
  layout.alternate = take("#") != 0;
  if (at < text.size() && text[at] == '0' && !layout.align) {
    layout.fill = "0";
    layout.align = '=';
    ++at;
  }
  layout.width = std::max<std::int64_t>(parse_width(text, at), 0);
  layout.grouping = take(",_");
  if (take(".")) {
    layout.precision = parse_width(text, at);
    if (layout.precision < 0) fail("Format specifier missing precision");
  }
  layout.type = take("bcdeEfFgGnosxX%");
  if (at != text.size()) fail(fmt::format("Invalid format specifier '{}'", text));
  return layout;
}

std::string grouped(std::string text, char separator) {
  if (!separator) return text;
  const std::size_t head = text.starts_with("-") ? 1 : 0;
  std::size_t end = head;
  while (end < text.size() && text[end] >= '0' && text[end] <= '9') ++end;
  for (std::size_t at = end; at > head + 3;) {
    at -= 3;
    text.insert(at, 1, separator);
  }
  return text;
}

std::string formatted_float(double value, const Layout& layout) {
  std::string text;
  const int precision = layout.precision < 0 ? 6 : static_cast<int>(layout.precision);
  if (!layout.type && layout.precision < 0) {
    append_float(text, value);
  } else if (!layout.type) {
    text = print_float(value, 'g', std::max(precision, 1), layout.alternate);
    if (text.find_first_of(".einf") == std::string::npos) text += ".0";
  } else if (layout.type == '%') {
    text = print_float(value * 100, 'f', precision, layout.alternate) + "%";
  } else {
    text = print_float(value, layout.type == 'n' ? 'g' : layout.type, precision, layout.alternate);
  }
  return with_sign(grouped(std::move(text), layout.grouping), layout.sign);
}

}  // namespace

std::string format_percent(Render& render, std::string_view text, const Value& values) {
  return PercentFormatter(render, text, values).run();
}

std::string format_value(Render& render, const Value& value, std::string_view specification) {
  if (specification.empty()) return to_str(render, value);
  const Layout layout = parse_specification(specification);
  const bool integer_type = layout.type && std::string_view("bcdoxXn").find(layout.type) != std::string_view::npos;
  if (value.is_integral() && (integer_type || (!layout.type && !value.is(Kind::kBool)) || layout.type == 0)) {
    if (layout.precision >= 0) fail("Precision not allowed in integer format specifier");
    if (layout.type == 'c') fail("the format 'c' is not supported");
    std::string digits = print_integer(value.as_integer(), layout.type ? layout.type : 'd', layout.alternate);
    return laid_out(render, with_sign(grouped(std::move(digits), layout.grouping), layout.sign), layout, '>');
  }
  if (value.is_number()) {
    if (integer_type && layout.type != 'n')
      fail(fmt::format("Unknown format code '{}' for object of type 'float'", layout.type));
    if (layout.type == 's') fail(fmt::format("Unknown format code 's' for object of type '{}'", type_name(value)));
    return laid_out(render, formatted_float(value.as_number(), layout), layout, '>');
  }
  if (!value.is_string()) fail(fmt::format("unsupported format string passed to {}.__format__", type_name(value)));
  if ((layout.type && layout.type != 's') || layout.align == '=' || layout.sign != '-' || layout.grouping) {
    fail(fmt::format("Invalid format specifier '{}' for object of type 'str'", specification));
  }
  std::string_view text = value.text();
  if (layout.precision >= 0) text = text.substr(0, unicode::offset(text, static_cast<std::size_t>(layout.precision)));
  return laid_out(render, std::string(text), layout, '<');
}

// --- str.format ---

namespace {

class BraceFormatter {
 public:
  BraceFormatter(Render& render, const Arguments& arguments) : render_(render), arguments_(arguments) {}

  std::string run(std::string_view text, int depth) {
    if (depth < 0) fail("Max string recursion exceeded");
    std::string out;
    for (std::size_t at = 0; at < text.size(); ++at) {
      const char c = text[at];
      if (c != '{' && c != '}') {
        out += c;
        continue;
      }
      if (at + 1 < text.size() && text[at + 1] == c) {
        out += c;
        ++at;
        continue;
      }
      if (c == '}') fail("Single '}' encountered in format string");
      const std::size_t end = closing(text, at);
      out += field(text.substr(at + 1, end - at - 1), depth);
      render_.bytes(out.size() / 64 + 1);
      at = end;
    }
    return out;
  }

 private:
  static std::size_t closing(std::string_view text, std::size_t open) {
    int level = 0;
    for (std::size_t at = open; at < text.size(); ++at) {
      if (text[at] == '{') ++level;
      if (text[at] == '}' && --level == 0) return at;
    }
    fail("expected '}' before end of string");
  }

  std::string field(std::string_view text, int depth) {
    std::size_t end = 0;
    for (bool bracket = false; end < text.size(); ++end) {
      if (text[end] == '[') bracket = true;
      if (text[end] == ']') bracket = false;
      if (!bracket && (text[end] == ':' || text[end] == '!')) break;
    }
    Value value = resolve(text.substr(0, end));
    char conversion = 0;
    if (end < text.size() && text[end] == '!') {
      if (end + 1 >= text.size()) fail("unmatched '{' in format spec");
      conversion = text[end + 1];
      end += 2;
      if (end < text.size() && text[end] != ':') fail("expected ':' after conversion specifier");
    }
    const std::string specification = end < text.size() ? run(text.substr(end + 1), depth - 1) : std::string();
    if (conversion == 'r' || conversion == 'a') {
      value = Value::string(render_, to_repr(render_, value));
    } else if (conversion == 's') {
      value = Value::string(render_, to_str(render_, value));
    } else if (conversion) {
      fail(fmt::format("Unknown conversion specifier '{}'", conversion));
    }
    return format_value(render_, value, specification);
  }

  // "0.name[key]"
  Value resolve(std::string_view path) {
    std::size_t at = std::min(path.find_first_of(".["), path.size());
    Value value = first(path.substr(0, at));
    while (at < path.size()) {
      if (path[at] == '.') {
        const std::size_t end = std::min(path.find_first_of(".[", at + 1), path.size());
        const std::string_view name = path.substr(at + 1, end - at - 1);
        if (name.empty()) fail("Empty attribute in format string");
        value = attribute(render_, value, render_.keep(name), method_named(name));
        at = end;
        continue;
      }
      const std::size_t end = path.find(']', at);
      if (end == std::string_view::npos || path[at] != '[') fail("Missing ']' in format string");
      const std::string_view key = path.substr(at + 1, end - at - 1);
      std::int64_t index = 0;
      const bool number = !key.empty() &&
                          std::all_of(key.begin(), key.end(), [](char c) { return c >= '0' && c <= '9'; }) &&
                          parse_integer(key, 10, index);
      value = item(render_, value, number ? Value::integer(index) : Value::view(render_.keep(key)));
      at = end + 1;
    }
    return value;
  }

  Value first(std::string_view name) {
    const bool digits = std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (digits) {
      std::int64_t index = next_;
      if (name.empty()) {
        if (next_ < 0) fail("cannot switch from manual field specification to automatic field numbering");
        ++next_;
      } else {
        if (next_ > 0) fail("cannot switch from automatic field numbering to manual field specification");
        next_ = -1;
        if (!parse_integer(name, 10, index)) fail("Too many decimal digits in format string");
      }
      if (index >= static_cast<std::int64_t>(arguments_.positional.size())) {
        fail(fmt::format("Replacement index {} out of range for positional args tuple", index));
      }
      return arguments_.positional[static_cast<std::size_t>(index)];
    }
    for (const auto& [key, value] : arguments_.keywords) {
      if (key.text() == name) return value;
    }
    fail(fmt::format("format: there is no argument '{}'", name));
  }

  Render& render_;
  const Arguments& arguments_;
  std::int64_t next_ = 0;
};

}  // namespace

std::string format_braces(Render& render, std::string_view text, const Arguments& arguments) {
  return BraceFormatter(render, arguments).run(text, 2);
}

}  // namespace qlora::jinja
