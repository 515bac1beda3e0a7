#include "qlora/eval/score/text_scores.h"

#include <algorithm>
#include <set>
#include <sstream>
#include <string>

#include "qlora/eval/score/spider_schema.h"
#include "qlora/eval/score/sql_text.h"

namespace qlora {
namespace {

std::set<std::string> distinct_words(std::string_view text) {
  std::istringstream in(lower_ascii(text));
  std::set<std::string> words;
  for (std::string word; in >> word;) words.insert(word);
  return words;
}

}  // namespace

bool exact_string(std::string_view prediction, std::string_view gold) {
  return trim(prediction) == trim(gold);
}

bool exact_normalized(std::string_view prediction, std::string_view gold) {
  return normalize_sql(prediction) == normalize_sql(gold);
}

double token_match(std::string_view prediction, std::string_view gold) {
  const auto wanted = distinct_words(gold);
  const auto present = distinct_words(prediction);
  const auto found =
      std::count_if(wanted.begin(), wanted.end(), [&](const auto& word) { return present.count(word) > 0; });
  return wanted.empty() ? 0.0 : static_cast<double>(found) / static_cast<double>(wanted.size());
}

}  // namespace qlora
