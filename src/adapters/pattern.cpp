#include "qlora/adapters/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <array>

#include <fmt/format.h>
#include <pcre2.h>

#include "qlora/core/error.h"
#include "qlora/core/quote.h"

namespace qlora {
namespace {

constexpr std::uint32_t kMostSteps = 100'000;
constexpr std::uint32_t kMostMemory = 16 * 1024;  // KiB

std::string message_of(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

template <auto kFree>
struct Freer {
  template <class T>
  void operator()(T* object) const {
    kFree(object);
  }
};

}  // namespace

struct NamePattern::Compiled {
  std::string expression;
  std::unique_ptr<pcre2_code, Freer<pcre2_code_free>> code;
  std::unique_ptr<pcre2_match_context, Freer<pcre2_match_context_free>> limits;
};

NamePattern::NamePattern(const std::string& expression) : compiled_(std::make_unique<Compiled>()) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  compiled_->expression = expression;
  compiled_->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()), expression.size(),
                                      PCRE2_UTF | PCRE2_ANCHORED | PCRE2_ENDANCHORED, &error, &offset, nullptr));
  if (!compiled_->code) {
    throw DataError(fmt::format("the regular expression {} is malformed at character {}: {}", quote_name(expression),
                                offset, message_of(error)));
  }
  compiled_->limits.reset(pcre2_match_context_create(nullptr));
  pcre2_set_match_limit(compiled_->limits.get(), kMostSteps);
  pcre2_set_heap_limit(compiled_->limits.get(), kMostMemory);
}

NamePattern::~NamePattern() = default;
NamePattern::NamePattern(NamePattern&&) noexcept = default;
NamePattern& NamePattern::operator=(NamePattern&&) noexcept = default;

bool NamePattern::matches_whole(std::string_view name) const {
  const std::unique_ptr<pcre2_match_data, Freer<pcre2_match_data_free>> data(
      pcre2_match_data_create_from_pattern(compiled_->code.get(), nullptr));
  const int result = pcre2_match(compiled_->code.get(), reinterpret_cast<PCRE2_SPTR>(name.data()), name.size(), 0, 0,
                                 data.get(), compiled_->limits.get());
  if (result >= 0) return true;
  if (result == PCRE2_ERROR_NOMATCH) return false;
  throw DataError(fmt::format("the regular expression {} cannot be matched against {}: {}",
                              quote_name(compiled_->expression), quote_name(name), message_of(result)));
}

}  // namespace qlora
