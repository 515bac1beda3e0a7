#include "qlora/eval/score/sql_text.h"

#include <chrono>

#include <gtest/gtest.h>

#include "qlora/eval/score/text_scores.h"

namespace qlora {
namespace {

TEST(SqlText, ExecutableFormDropsDistinctAsAWordAlone) {
  EXPECT_EQ(executable_gold("SELECT DISTINCT a FROM t WHERE b = 'distinct' AND \"distinct\" = 1 -- distinct"),
            "SELECT  a FROM t WHERE b = 'distinct' AND \"distinct\" = 1 -- distinct");
  EXPECT_EQ(executable_gold("SELECT count(distinct a) , undistinct FROM t"), "SELECT count( a) , undistinct FROM t");
  EXPECT_EQ(executable_gold("SELECT 'it''s distinct' FROM t"), "SELECT 'it''s distinct' FROM t");
}

TEST(SqlText, ExecutableFormIsTheFirstStatement) {
  EXPECT_EQ(executable_gold("SELECT ';' ; DROP TABLE t"), "SELECT ';' ;");
  EXPECT_EQ(executable_gold("SELECT 1 -- ;\n; SELECT 2"), "SELECT 1 -- ;\n;");
}

TEST(SqlText, ExecutableFormClosesOperatorsAndFillsValues) {
  EXPECT_EQ(executable_gold(" a > = 1 AND b < = 2 AND c ! = 3 "), "a >= 1 AND b <= 2 AND c != 3");
  EXPECT_EQ(executable_gold("x = Year ( CURDATE( ) ) - 1"), "x = 2020- 1");
  EXPECT_EQ(executable_gold("year(now())"), "year(now())");
  EXPECT_EQ(executable_prediction("a > value AND b = 1"), "a > 1 AND b = 1");
  EXPECT_EQ(executable_gold("a > value AND b = 1"), "a > value AND b = 1");
}

TEST(SqlText, OrderMattersWhereTheGoldOrders) {
  EXPECT_TRUE(order_matters("select a Order BY b"));
  EXPECT_FALSE(order_matters("select a order  by b"));
}

TEST(SqlText, NormalFormIgnoresCaseSpaceQuotesAndSemicolon) {
  EXPECT_TRUE(exact_normalized("select COUNT( * ) from `Singer` where a='X  y' ;;",
                               "SELECT count(*) FROM singer WHERE a = \"X  y\""));
  EXPECT_FALSE(exact_normalized("SELECT a FROM t WHERE a = 'x'", "SELECT a FROM t WHERE a = 'X'"));
  EXPECT_FALSE(exact_normalized("SELECT a FROM t WHERE a = 'x y'", "SELECT a FROM t WHERE a = 'x  y'"));
  EXPECT_FALSE(exact_normalized("SELECT ab", "SELECT a b"));
  EXPECT_EQ(normalize_sql("A; /* c */ -- d"), "a");
  EXPECT_EQ(normalize_sql(";"), "");
  EXPECT_EQ(normalize_sql("'open"), "'open");
}

TEST(SqlText, ExactStringComparesCharacters) {
  EXPECT_TRUE(exact_string(" SELECT 1\n", "SELECT 1"));
  EXPECT_FALSE(exact_string("select 1", "SELECT 1"));
}

TEST(SqlText, TokenMatchIsAShareOfTheGoldsDistinctWords) {
  EXPECT_DOUBLE_EQ(token_match("select a from t", "SELECT a FROM t WHERE a"), 4.0 / 5.0);
  EXPECT_DOUBLE_EQ(token_match("", "SELECT a"), 0.0);
  EXPECT_DOUBLE_EQ(token_match("a", ""), 0.0);
  EXPECT_DOUBLE_EQ(token_match("x SELECT y a", "a a select"), 1.0);
}

TEST(SqlText, ExtractsTheQueryFromAnAnswer) {
  const std::string sql = "SELECT a FROM t WHERE b = 'x;y'";
  EXPECT_EQ(extract_sql(sql), sql);
  EXPECT_EQ(extract_sql("  " + sql + ";  "), sql);
  EXPECT_EQ(extract_sql("Sure! Here is the query:\n```sql\n" + sql + ";\n```\nIt selects a."), sql);
  EXPECT_EQ(extract_sql("```" + sql + "```"), sql);
  EXPECT_EQ(extract_sql("```\nnot this\n```\n```SQLite\n" + sql + "\n```"), sql);
  EXPECT_EQ(extract_sql("The query is: " + sql + "; it gives the rows."), sql);
  EXPECT_EQ(extract_sql("You can use `" + sql + "` for this."), sql);
  EXPECT_EQ(extract_sql("I select a row from it: select a from t"), "select a from t");
  EXPECT_EQ(extract_sql(sql + "\n\nThis lists them."), sql);
  EXPECT_EQ(extract_sql(sql + "\nThis query lists them."), sql);
  EXPECT_EQ(extract_sql("SELECT a\nFROM t\nORDER BY a"), "SELECT a\nFROM t\nORDER BY a");
  EXPECT_EQ(extract_sql("Answer:\nWITH x AS (SELECT 1) SELECT * FROM x;"), "WITH x AS (SELECT 1) SELECT * FROM x");
  EXPECT_EQ(extract_sql("(SELECT a FROM t)"), "SELECT a FROM t)");  // the parenthesis is prose as far as this can tell
}

TEST(SqlText, ExtractsNothingFromProse) {
  EXPECT_EQ(extract_sql(" You should select the best one. "), "You should select the best one.");
  EXPECT_EQ(extract_sql("Rows with a name as given"), "Rows with a name as given");
  EXPECT_EQ(extract_sql(""), "");
  EXPECT_EQ(extract_sql("```"), "```");
}

// A model that repeats itself: time must grow with the answer, not with its square (which takes hours here).
TEST(ExtractSql, EndlessRepetitionIsReadOnce) {
  for (const std::string word : {"select ", "SELECT ", "with\n", "select\n", "[", "`", "```sql\n", "(", "\n"}) {
    std::string answer;
    while (answer.size() < (1u << 18)) answer += word;
    const auto start = std::chrono::steady_clock::now();
    extract_sql(answer);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    EXPECT_LT(took.count(), 5.0) << word;
  }
}

}  // namespace
}  // namespace qlora
