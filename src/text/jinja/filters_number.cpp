// Filters over numbers.
#include <charconv>
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "qlora/text/jinja/runtime.h"
#include "qlora/text/jinja/unicode.h"

namespace qlora::jinja {
namespace {

// Digits with single underscores between them, as Python's literals; false where they stand wrong.
bool without_underscores(std::string_view text, std::string& out) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      out += text[i];
      continue;
    }
    const bool inside = i > 0 && i + 1 < text.size() && std::isalnum(static_cast<unsigned char>(text[i - 1])) &&
                        std::isalnum(static_cast<unsigned char>(text[i + 1]));
    if (!inside) return false;
  }
  return true;
}

bool skip_prefix(std::string_view& digits, int& base) {
  if (digits.size() < 2 || digits[0] != '0') return false;
  const char mark = static_cast<char>(digits[1] | 0x20);
  const int radix = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
  if (!radix || (base != 0 && base != radix)) return false;
  base = radix;
  digits.remove_prefix(2);
  if (digits.starts_with("_")) digits.remove_prefix(1);
  return true;
}

Value truncated(double value) {
  if (!(std::abs(value) < 9.2e18)) fail("an integer needs more than 64 bits");
  return Value::integer(static_cast<std::int64_t>(value));
}

Value to_int(Render&, const Value& value, Arguments& arguments) {
  const Value fallback = arguments.has(0) ? arguments[0] : Value::integer(0);
  if (value.is_undefined()) fail_undefined(value);
  if (value.is_integral()) return Value::integer(value.as_integer());
  if (value.is(Kind::kFloat)) {
    if (std::isnan(value.as_number())) return fallback;
    return truncated(value.as_number());
  }
  if (!value.is_string()) return fallback;
  std::int64_t result = 0;
  const std::int64_t base = arguments.has(1) ? integer_argument(arguments[1], "int") : 10;
  if (parse_integer(value.text(), static_cast<int>(base), result)) return Value::integer(result);
  double number = 0;
  if (!parse_float(value.text(), number) || !std::isfinite(number)) return fallback;
  return truncated(number);
}

Value to_float(Render&, const Value& value, Arguments& arguments) {
  const Value fallback = arguments.has(0) ? arguments[0] : Value::number(0.0);
  if (value.is_undefined()) fail_undefined(value);
  if (value.is_number()) return Value::number(value.as_number());
  double number = 0;
  return value.is_string() && parse_float(value.text(), number) ? Value::number(number) : fallback;
}

Value absolute(Render&, const Value& value, Arguments&) {
  if (value.is_undefined()) fail_undefined(value);
  if (!value.is_number()) fail(fmt::format("bad operand type for abs(): '{}'", type_name(value)));
  if (value.is(Kind::kFloat)) return Value::number(std::abs(value.as_number()));
  return value.as_integer() < 0 ? subtract(Value::integer(0), value) : Value::integer(value.as_integer());
}

Value round_filter(Render& render, const Value& value, Arguments& arguments) {
  const Value digits = arguments.has(0) ? arguments[0] : Value::integer(0);
  const std::string_view method = arguments.has(1) ? string_argument(arguments[1], "round") : "common";
  if (method != "common" && method != "ceil" && method != "floor") fail("round: method must be common, ceil or floor");
  if (value.is_undefined()) fail_undefined(value);
  if (!value.is_number()) fail(fmt::format("type {} doesn't define __round__ method", type_name(value)));
  const std::int64_t places = integer_argument(digits, "round");
  if (method == "common") return round_number(value, places, true);
  const Value scale = power(Value::integer(10), Value::integer(places));
  const double scaled = multiply(render, value, scale).as_number();
  return divide(truncated(method == "ceil" ? std::ceil(scaled) : std::floor(scaled)), scale);
}

}  // namespace

bool parse_integer(std::string_view text, int base, std::int64_t& result) {
  std::string_view digits = unicode::strip(text);
  const bool negative = digits.starts_with("-");
  if (negative || digits.starts_with("+")) digits.remove_prefix(1);
  const bool prefixed = skip_prefix(digits, base);
  if (base == 0) {
    if (!prefixed && digits.size() > 1 && digits[0] == '0' && digits.find_first_not_of("0_") != digits.npos)
      return false;
    base = 10;
  }
  if (base < 2 || base > 36) fail("int() base must be >= 2 and <= 36, or 0");
  std::string plain = negative ? "-" : "";
  if (digits.empty() || digits[0] == '-' || !without_underscores(digits, plain)) return false;
  const auto parsed = std::from_chars(plain.data(), plain.data() + plain.size(), result, base);
  if (parsed.ptr != plain.data() + plain.size() || parsed.ec == std::errc::invalid_argument) return false;
  if (parsed.ec == std::errc::result_out_of_range) fail("an integer needs more than 64 bits");
  return true;
}

bool parse_float(std::string_view text, double& result) {
  std::string_view digits = unicode::strip(text);
  const bool negative = digits.starts_with("-");
  if (negative || digits.starts_with("+")) digits.remove_prefix(1);
  const std::string word = unicode::lower(digits);
  if (word == "inf" || word == "infinity") {
    result = std::numeric_limits<double>::infinity();
  } else if (word == "nan") {
    result = std::numeric_limits<double>::quiet_NaN();
  } else {
    std::string plain;
    if (word.empty() || word.find_first_not_of("0123456789.e+-_") != word.npos || word[0] == '-' ||
        !without_underscores(word, plain)) {
      return false;
    }
    const auto parsed = std::from_chars(plain.data(), plain.data() + plain.size(), result);
    if (parsed.ptr != plain.data() + plain.size() || parsed.ec == std::errc::invalid_argument) return false;
    if (parsed.ec == std::errc::result_out_of_range) {
      result = plain.find("e-") != plain.npos ? 0.0 : std::numeric_limits<double>::infinity();
    }
  }
  if (negative) result = -result;
  return true;
}

// Half to even, on the exact value, as Python's round().
Value round_number(const Value& value, std::int64_t digits, bool has_digits) {
  if (value.is_integral()) {
    std::int64_t scale = 1;
    for (std::int64_t i = digits; i < 0; ++i) {
      if (__builtin_mul_overflow(scale, std::int64_t{10}, &scale)) return Value::integer(0);
    }
    if (scale == 1) return Value::integer(value.as_integer());
    const std::int64_t number = value.as_integer();
    std::int64_t quotient = number / scale, rest = number % scale;
    if (rest < 0) rest += scale, --quotient;
    if (rest * 2 > scale || (rest * 2 == scale && quotient % 2 != 0)) ++quotient;
    return Value::integer(quotient * scale);
  }
  const double number = value.as_number();
  if (!has_digits) return truncated(std::nearbyint(number));
  if (!std::isfinite(number) || digits > 322) return value;
  if (digits < 0) {
    const double scale = std::pow(10.0, static_cast<double>(-digits));
    return Value::number(digits < -308 ? 0.0 : std::nearbyint(number / scale) * scale);
  }
  const std::string text = fmt::format("{:.{}f}", number, digits);
  double rounded = 0;
  std::from_chars(text.data(), text.data() + text.size(), rounded);
  return Value::number(rounded);
}

std::vector<FilterSpec> number_filters() {
  return {
      {"int", to_int, {"default,base", 0}},
      {"float", to_float, {"default", 0}},
      {"abs", absolute, {}},
      {"round", round_filter, {"precision,method", 0}},
  };
}

}  // namespace qlora::jinja
