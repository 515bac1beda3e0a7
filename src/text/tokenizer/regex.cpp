#include "qlora/text/tokenizer/regex.h"

#include <array>
#include <stdexcept>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include "qlora/core/error.h"
#include "qlora/text/tokenizer/unicode.h"

namespace qlora {
namespace {

constexpr std::uint32_t kMatchLimit = 100'000'000;
constexpr std::size_t kJitStackStart = 64 << 10;
constexpr std::size_t kJitStackMost = 16 << 20;

// What a thread needs to match: results and, for deep patterns, a stack of its own.
struct Matcher {
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(kJitStackStart, kJitStackMost, nullptr);
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  Matcher() {
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~Matcher() {
    pcre2_match_data_free(data);
    pcre2_jit_stack_free(stack);
    pcre2_match_context_free(context);
  }
  Matcher(const Matcher&) = delete;
  Matcher& operator=(const Matcher&) = delete;
};

Matcher& matcher() {
  thread_local Matcher one;
  return one;
}

std::string pcre2_message(int code) {
  std::array<unsigned char, 256> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

std::string escape_literal(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (static_cast<unsigned char>(c) < 0x80 && !std::isalnum(static_cast<unsigned char>(c))) out.push_back('\\');
    out.push_back(c);
  }
  return out;
}

}  // namespace

struct Regex::Code {
  pcre2_code* compiled = nullptr;

  explicit Code(const std::string& pattern) {
    pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    int error = 0;
    PCRE2_SIZE offset = 0;
    compiled =
        pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset, context);
    pcre2_compile_context_free(context);
    if (compiled == nullptr) {
      throw std::invalid_argument(fmt::format("{} (near \"{}\")", pcre2_message(error),
                                              replace_invalid_utf8(pattern.substr(offset > 10 ? offset - 10 : 0, 20))));
    }
    pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE);  // without JIT the interpreter gives the same matches
  }
  ~Code() { pcre2_code_free(compiled); }
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;
};

Regex::Regex() = default;
Regex::Regex(std::string_view pattern) : code_(std::make_unique<Code>(translate_oniguruma(pattern))) {}
Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

Regex Regex::literal(std::string_view text) {
  Regex regex;
  regex.code_ = std::make_unique<Code>(escape_literal(text));
  return regex;
}

std::optional<ByteSpan> Regex::find(std::string_view text, std::size_t from) const {
  Matcher& own = matcher();
  const int count = pcre2_match(code_->compiled, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                                PCRE2_NO_UTF_CHECK, own.data, own.context);
  if (count == PCRE2_ERROR_NOMATCH) return std::nullopt;
  if (count < 0) {
    throw DataError(fmt::format("a regular expression of the tokenizer gave up at byte {} of a text of {} bytes: {}",
                                from, text.size(), pcre2_message(count)));
  }
  const PCRE2_SIZE* pair = pcre2_get_ovector_pointer(own.data);
  return ByteSpan{pair[0], pair[1]};
}

void Regex::for_each_match(std::string_view text, const std::function<void(ByteSpan)>& visit) const {
  std::size_t from = 0;
  std::optional<std::size_t> last_end;
  while (from <= text.size()) {
    const std::optional<ByteSpan> match = find(text, from);
    if (!match) return;
    if (match->begin == match->end && last_end == match->end) {
      from = match->end < text.size() ? match->end + code_point_at(text, match->end).length : text.size() + 1;
      continue;
    }
    visit(*match);
    from = match->end;
    last_end = match->end;
  }
}

}  // namespace qlora
