// Python's arithmetic over template values. Integers have 64 bits: what needs more is an error.
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "qlora/text/jinja/runtime.h"

namespace qlora::jinja {
namespace {

void require_defined(const Value& left, const Value& right) {
  if (left.is_undefined()) fail_undefined(left);
  if (right.is_undefined()) fail_undefined(right);
}

[[noreturn]] void fail_operands(std::string_view symbol, const Value& left, const Value& right) {
  fail(fmt::format("unsupported operand type(s) for {}: '{}' and '{}'", symbol, type_name(left), type_name(right)));
}

[[noreturn]] void fail_overflow() {
  fail("an integer needs more than 64 bits");
}

void require_numbers(std::string_view symbol, const Value& left, const Value& right) {
  require_defined(left, right);
  if (!left.is_number() || !right.is_number()) fail_operands(symbol, left, right);
}

// Fails before the memory is taken.
void charge_product(Render& render, std::size_t size, std::int64_t count, std::size_t unit) {
  if (count <= 0 || size == 0) return;
  const auto limit = static_cast<std::size_t>(Budget::kBytes);
  if (size > limit / unit || static_cast<std::size_t>(count) > limit / (size * unit)) render.bytes(limit + 1);
}

Value repeat(Render& render, const Value& value, std::int64_t count) {
  if (value.is_string()) {
    const std::string_view text = value.text();
    charge_product(render, text.size(), count, 1);
    std::string out;
    for (std::int64_t i = 0; i < count && !text.empty(); ++i) out += text;
    return Value::string(render, std::move(out), value.markup());
  }
  charge_product(render, value.size(), count, sizeof(Value));
  std::vector<Value> items;
  for (std::int64_t i = 0; i < count && value.size() > 0; ++i) {
    render.step(static_cast<std::int64_t>(value.size()));
    for (std::size_t k = 0; k < value.size(); ++k) items.push_back(value.item(k));
  }
  return value.is(Kind::kList) ? list_of(render, std::move(items)) : tuple_of(render, std::move(items));
}

Value join_sequences(Render& render, const Value& left, const Value& right) {
  std::vector<Value> items;
  const std::size_t count = left.size() + right.size();
  render.step(static_cast<std::int64_t>(count / 4));
  items.reserve(count);
  for (std::size_t i = 0; i < left.size(); ++i) items.push_back(left.item(i));
  for (std::size_t i = 0; i < right.size(); ++i) items.push_back(right.item(i));
  return left.is(Kind::kList) ? list_of(render, std::move(items)) : tuple_of(render, std::move(items));
}

bool is_repeatable(const Value& value) {
  return value.is_string() || value.is_sequence();
}

}  // namespace

std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else if (c == '>') {
      out += "&gt;";
    } else if (c == '"') {
      out += "&#34;";
    } else if (c == '\'') {
      out += "&#39;";
    } else {
      out += c;
    }
  }
  return out;
}

std::string as_markup(Render& render, const Value& value) {
  if (value.is_string() && value.markup()) return std::string(value.text());
  return escape_html(to_str(render, value));
}

Value add(Render& render, const Value& left, const Value& right) {
  require_defined(left, right);
  if (left.is_string() && right.is_string()) {
    if (left.markup() || right.markup()) {
      return Value::string(render, as_markup(render, left) + as_markup(render, right), true);
    }
    std::string text(left.text());
    text += right.text();
    return Value::string(render, std::move(text));
  }
  if (left.is_integral() && right.is_integral()) {
    std::int64_t sum = 0;
    if (__builtin_add_overflow(left.as_integer(), right.as_integer(), &sum)) fail_overflow();
    return Value::integer(sum);
  }
  if (left.is_number() && right.is_number()) return Value::number(left.as_number() + right.as_number());
  if (left.is_sequence() && left.kind() == right.kind()) return join_sequences(render, left, right);
  if (left.is_string()) {
    fail(fmt::format("can only concatenate str (not \"{}\") to str", type_name(right)));
  }
  fail_operands("+", left, right);
}

Value subtract(const Value& left, const Value& right) {
  require_numbers("-", left, right);
  if (!left.is_integral() || !right.is_integral()) return Value::number(left.as_number() - right.as_number());
  std::int64_t difference = 0;
  if (__builtin_sub_overflow(left.as_integer(), right.as_integer(), &difference)) fail_overflow();
  return Value::integer(difference);
}

Value multiply(Render& render, const Value& left, const Value& right) {
  require_defined(left, right);
  if (is_repeatable(left) && right.is_integral()) return repeat(render, left, right.as_integer());
  if (left.is_integral() && is_repeatable(right)) return repeat(render, right, left.as_integer());
  require_numbers("*", left, right);
  if (!left.is_integral() || !right.is_integral()) return Value::number(left.as_number() * right.as_number());
  std::int64_t product = 0;
  if (__builtin_mul_overflow(left.as_integer(), right.as_integer(), &product)) fail_overflow();
  return Value::integer(product);
}

Value divide(const Value& left, const Value& right) {
  require_numbers("/", left, right);
  if (right.as_number() == 0) fail("division by zero");
  return Value::number(left.as_number() / right.as_number());
}

namespace {

std::int64_t floor_quotient(std::int64_t a, std::int64_t b) {
  if (a == std::numeric_limits<std::int64_t>::min() && b == -1) fail_overflow();
  const std::int64_t quotient = a / b;
  return a % b != 0 && (a < 0) != (b < 0) ? quotient - 1 : quotient;
}

double float_modulo(double a, double b) {
  double remainder = std::fmod(a, b);
  if (remainder == 0) return std::copysign(0.0, b);
  if ((remainder < 0) != (b < 0)) remainder += b;
  return remainder;
}

double float_floor_quotient(double a, double b) {
  const double remainder = std::fmod(a, b);
  double quotient = (a - remainder) / b;
  if (remainder != 0 && (remainder < 0) != (b < 0)) quotient -= 1;
  if (quotient == 0) return std::copysign(0.0, a / b);
  const double floored = std::floor(quotient);
  return quotient - floored > 0.5 ? floored + 1 : floored;
}

}  // namespace

Value floor_divide(const Value& left, const Value& right) {
  require_numbers("//", left, right);
  if (right.as_number() == 0) fail("integer division or modulo by zero");
  if (!left.is_integral() || !right.is_integral()) {
    return Value::number(float_floor_quotient(left.as_number(), right.as_number()));
  }
  return Value::integer(floor_quotient(left.as_integer(), right.as_integer()));
}

Value modulo(Render& render, const Value& left, const Value& right) {
  if (left.is_string()) {
    if (!left.markup()) return Value::string(render, format_percent(render, left.text(), right));
    fail("the operator % on text marked as safe is not supported");
  }
  require_numbers("%", left, right);
  if (right.as_number() == 0) fail("integer modulo by zero");
  if (!left.is_integral() || !right.is_integral()) {
    return Value::number(float_modulo(left.as_number(), right.as_number()));
  }
  const std::int64_t a = left.as_integer(), b = right.as_integer();
  return Value::integer(b == -1 ? 0 : a - floor_quotient(a, b) * b);
}

Value power(const Value& left, const Value& right) {
  require_numbers("** or pow()", left, right);
  if (left.is_integral() && right.is_integral() && right.as_integer() >= 0) {
    std::int64_t result = 1, base = left.as_integer();
    for (std::int64_t exponent = right.as_integer(); exponent > 0; exponent >>= 1) {
      if ((exponent & 1) && __builtin_mul_overflow(result, base, &result)) fail_overflow();
      if (exponent > 1 && __builtin_mul_overflow(base, base, &base)) fail_overflow();
    }
    return Value::integer(result);
  }
  const double base = left.as_number(), exponent = right.as_number();
  if (base == 0 && exponent < 0) fail("0.0 cannot be raised to a negative power");
  if (base < 0 && exponent != std::floor(exponent)) fail("a complex number is no value of templates");
  const double result = std::pow(base, exponent);
  if (std::isinf(result) && !std::isinf(base) && !std::isinf(exponent)) fail("numerical result out of range");
  return Value::number(result);
}

}  // namespace qlora::jinja
