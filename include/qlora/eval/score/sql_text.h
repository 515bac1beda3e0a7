// What is done to SQL as text: rewriting before it runs, normal forms for string scores, taking it out of an answer.
#pragma once

#include <string>
#include <string_view>

namespace qlora {

// White space at both ends removed.
std::string_view trim(std::string_view text);

// Every `from` (not empty) becomes `to`, from the left; what was put in is not looked at again.
void replace_all(std::string& text, std::string_view from, std::string_view to);

// Trimmed; "> =", "< =", "! =" closed up; the first statement alone; the word DISTINCT dropped wherever it is a word
// (not in strings, quoted names or comments).
std::string without_distinct(std::string_view sql);

// YEAR(CURDATE()) as 2020.
std::string with_current_year(std::string_view sql);

// The gold as the test-suite evaluator runs it: "> =", "< =", "! =" closed up; the first statement alone; the word
// DISTINCT dropped wherever it is a word (not in strings, quoted names or comments); YEAR(CURDATE()) becomes 2020.
std::string executable_gold(std::string_view sql);

// The prediction as the official parser reads it: trimmed, " value " (the placeholder of models that predict no values)
// as " 1 ".
std::string parsable_prediction(std::string_view sql);

// The prediction as the test-suite evaluator runs it: as executable_gold, after parsable_prediction.
std::string executable_prediction(std::string_view sql);

// Whether the order of rows counts: the gold says ORDER BY anywhere, with one space.
bool order_matters(std::string_view executable_gold);

// One line a query is: its tokens with one space between, words in lower case, quoted names ("`a`", "[a]") as plain
// words, string literals in single quotes with their contents as they are (case and white space in them are data),
// no final semicolons. Double quotes count as quotes of a string, as Spider writes them.
std::string normalize_sql(std::string_view sql);

// The SQL in an answer with prose or code fences; the trimmed answer itself where none is found. In this order:
// the first fenced block that starts with SELECT or WITH; else from the first SELECT or WITH that starts a line, or
// follows ':' or a backquote, or is in capitals, and has a FROM (SELECT) or AS (WITH) after it. It ends before a
// semicolon outside of quotes, a blank line, a fence, the closing backquote where one opened it, or a line that reads
// as a sentence.
std::string extract_sql(std::string_view answer);

}  // namespace qlora
