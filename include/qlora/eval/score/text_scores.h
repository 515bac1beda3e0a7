// Scores that compare two queries as text, without running or parsing them.
#pragma once

#include <string_view>

namespace qlora {

// The same characters but for white space at both ends.
bool exact_string(std::string_view prediction, std::string_view gold);

// The same normal form (normalize_sql): case of words, white space, kind of quotes and final semicolons do not count;
// the contents of strings do, to the letter.
bool exact_normalized(std::string_view prediction, std::string_view gold);

// |words(gold) in words(prediction)| / |words(gold)|: distinct lower-cased words, cut at white space. In [0, 1];
// a gold without words gives 0.
double token_match(std::string_view prediction, std::string_view gold);

}  // namespace qlora
