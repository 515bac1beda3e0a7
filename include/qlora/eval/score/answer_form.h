// Whether an answer is SQL alone, and what stands around the SQL where it is not.
#pragma once

#include <array>
#include <cstddef>
#include <string_view>

namespace qlora {

enum class AnswerPart : size_t {
  kEmpty,          // no answer at all
  kNoQuery,        // no SELECT or WITH in it
  kProseBefore,    // words before the query
  kProseAfter,     // words behind it
  kCodeFence,      // ``` anywhere
  kOtherLanguage,  // letters beyond Latin (from U+0250 on) behind the query's beginning, outside of quotes
};
inline constexpr std::array<const char*, 6> kAnswerPartNames = {"empty",       "no_query",   "prose_before",
                                                                "prose_after", "code_fence", "other_language"};

// What the answer has, by AnswerPart. The query is what extract_sql takes; fences with their language tag and
// semicolons are no prose.
std::array<bool, kAnswerPartNames.size()> answer_form(std::string_view answer);

}  // namespace qlora
