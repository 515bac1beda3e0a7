#include "qlora/eval/score/answer_form.h"

#include <algorithm>
#include <string>

#include "qlora/eval/score/ngrams.h"
#include "qlora/eval/score/spider_schema.h"
#include "qlora/eval/score/sql_text.h"
#include "qlora/text/jinja/unicode.h"

namespace qlora {
namespace {

constexpr std::string_view kFence = "```";

bool has_letter(const Units& characters) {
  return std::any_of(characters.begin(), characters.end(), jinja::unicode::is_letter);
}

// Letters that belong to no fence's language tag.
bool has_prose(std::string_view text) {
  Units prose;
  for (size_t at = 0; at < text.size();) {
    const size_t fence = std::min(text.find(kFence, at), text.size());
    prose += characters_of(text.substr(at, fence - at));
    at = std::min(text.find_first_of(" \t\r\n", fence), text.size());
  }
  return has_letter(prose);
}

bool has_other_language(std::string_view text) {
  constexpr char32_t kBeyondLatin = 0x250;
  char32_t quote = 0;
  for (const char32_t c : characters_of(text)) {
    if (quote == 0 && (c == U'\'' || c == U'"' || c == U'`')) {
      quote = c;
    } else if (c == quote) {
      quote = 0;
    } else if (quote == 0 && c >= kBeyondLatin && jinja::unicode::is_letter(c)) {
      return true;
    }
  }
  return false;
}

}  // namespace

std::array<bool, kAnswerPartNames.size()> answer_form(std::string_view answer) {
  std::array<bool, kAnswerPartNames.size()> form{};
  const auto part = [&](AnswerPart which) -> bool& { return form.at(static_cast<size_t>(which)); };
  const std::string query = extract_sql(answer);
  const std::string head = lower_ascii(query.substr(0, query.find_first_not_of("( \t\r\n") + 6));
  part(AnswerPart::kCodeFence) = answer.find(kFence) != std::string_view::npos;
  part(AnswerPart::kEmpty) = trim(answer).empty();
  if (part(AnswerPart::kEmpty)) return form;
  part(AnswerPart::kNoQuery) = !head.ends_with("select") && head.find("with") == std::string::npos;
  if (part(AnswerPart::kNoQuery)) return form;
  const size_t begin = answer.find(query);
  part(AnswerPart::kProseBefore) = has_prose(answer.substr(0, begin));
  part(AnswerPart::kProseAfter) = has_prose(answer.substr(begin + query.size()));
  part(AnswerPart::kOtherLanguage) = has_other_language(answer.substr(begin));
  return form;
}

}  // namespace qlora
