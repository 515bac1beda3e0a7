#include "qlora/eval/score/answer_form.h"

#include <string>

#include <gtest/gtest.h>

namespace qlora {
namespace {

// The names of what an answer has.
std::string form(std::string_view answer) {
  const auto found = answer_form(answer);
  std::string names;
  for (size_t i = 0; i < found.size(); ++i) {
    if (found[i]) names += (names.empty() ? "" : " ") + std::string(kAnswerPartNames[i]);
  }
  return names;
}

TEST(AnswerForm, SqlAlone) {
  EXPECT_EQ(form("SELECT a FROM t"), "");
  EXPECT_EQ(form(" select a from t where b = '\xe6\x88\x91' ; \n"), "") << "what stands in quotes is data";
  EXPECT_EQ(form("(SELECT a FROM t)"), "");
  EXPECT_EQ(form("WITH x AS (SELECT 1) SELECT * FROM x;"), "");
}

TEST(AnswerForm, WhatStandsAroundIt) {
  EXPECT_EQ(form(""), "empty");
  EXPECT_EQ(form(" \n"), "empty");
  EXPECT_EQ(form("I cannot say."), "no_query");
  EXPECT_EQ(form("```sql\nSELECT a FROM t\n```"), "code_fence");
  EXPECT_EQ(form("```\nSELECT a FROM t;\n```\nThis lists a."), "prose_after code_fence");
  EXPECT_EQ(form("Here it is:\nSELECT a FROM t"), "prose_before");
  EXPECT_EQ(form("SELECT a FROM t; It takes all rows."), "prose_after");
  EXPECT_EQ(form("SELECT a FROM t \xe6\x9f\xa5\xe8\xaf\xa2"), "other_language");
  EXPECT_EQ(form("SELECT a FROM t;\n\xd0\x97\xd0\xb4\xd0\xb5\xd1\x81\xd1\x8c"), "prose_after other_language");
}

}  // namespace
}  // namespace qlora
