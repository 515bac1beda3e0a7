// The parser of Spider's dialect and what rests on it: hardness, exact set match. Expectations follow the official
// evaluator's published behaviour; the parity test checks them over whole prediction files.
#include "qlora/eval/score/spider_sql.h"

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "qlora/core/error.h"
#include "qlora/eval/score/spider_match.h"

#include "eval/sample_database.h"

namespace qlora {
namespace {

using ::testing::ElementsAre;

class SpiderSqlTest : public ::testing::Test {
 protected:
  SpiderQuery parse(const std::string& sql) const { return parse_spider_sql(sql, schema_); }
  ExactMatch match(const std::string& gold, const std::string& predicted) const {
    return match_exactly(parse(gold), parse(predicted), schema_, database_.foreign_keys);
  }
  bool exact(const std::string& gold, const std::string& predicted) const { return match(gold, predicted).exact; }
  std::string_view hardness(const std::string& sql) const {
    return kHardnessNames.at(static_cast<size_t>(hardness_of(parse(sql))));
  }

  SampleDatabase files_;
  SpiderSchema schema_ = read_sqlite_schema(files_.path());
  SpiderDatabase database_ = read_spider_tables(files_.tables()).at("music");
};

TEST_F(SpiderSqlTest, SchemaFromTheDatabaseAndFromTablesJsonAgree) {
  EXPECT_EQ(schema_.tables, database_.schema.tables);
  EXPECT_EQ(database_.foreign_keys,
            (ForeignKeyMap{{"concert.singer_id", "singer.singer_id"}, {"singer.singer_id", "singer.singer_id"}}));
}

TEST_F(SpiderSqlTest, TokensKeepStringsWholeAndJoinOperators) {
  EXPECT_THAT(tokenize_spider_sql("SELECT count(*) FROM t WHERE a > = 'It is, T1.x' AND b!=\"Y\";"),
              ElementsAre("select", "count", "(", "*", ")", "from", "t", "where", "a", ">=", "\"It is, T1.x\"", "and",
                          "b", "!", "=__val_56_58__", ";"));
  EXPECT_THAT(tokenize_spider_sql("x ! = 1.5 , y"), ElementsAre("x", "!=", "1.5", ",", "y"));
  EXPECT_THAT(tokenize_spider_sql("a, b,1 c:d"), ElementsAre("a", ",", "b,1", "c", ":", "d"));
  EXPECT_THAT(tokenize_spider_sql("t.a limit 1."), ElementsAre("t.a", "limit", "1", "."));
  EXPECT_THAT(tokenize_spider_sql("a\u00a0b -- c"), ElementsAre("a", "b", "--", "c"));
  EXPECT_THROW(tokenize_spider_sql("a = 'b"), SpiderSyntaxError);
}

TEST_F(SpiderSqlTest, ParsesEveryClause) {
  const SpiderQuery q = parse(
      "SELECT DISTINCT T1.name , max(T2.fee) FROM singer AS T1 JOIN concert AS T2 ON T1.singer_id = T2.singer_id "
      "WHERE T2.year BETWEEN 2014 AND 2015 OR T1.country NOT IN (SELECT country FROM singer WHERE age > 40) "
      "GROUP BY T1.name HAVING count(*) >= 2 ORDER BY avg(T2.fee) DESC LIMIT 3");
  EXPECT_EQ(q.distinct, true);
  ASSERT_EQ(q.select.size(), 2u);
  EXPECT_EQ(q.select[0].unit.left.column, "singer.name");
  EXPECT_EQ(q.select[1].aggregate, Aggregate::kMax);
  EXPECT_EQ(q.tables, (std::vector<TableUnit>{"singer", "concert"}));
  ASSERT_EQ(q.joins.size(), 1u);
  EXPECT_EQ(std::get<ColumnUnit>(conditions_of(q.joins)[0]->first).column, "concert.singer_id");
  ASSERT_EQ(q.where.size(), 3u);
  EXPECT_EQ(std::get<double>(conditions_of(q.where)[0]->second), 2015.0);
  EXPECT_EQ(count_or(q.where), 1);
  EXPECT_TRUE(conditions_of(q.where)[1]->negated);
  EXPECT_TRUE(std::holds_alternative<Subquery>(conditions_of(q.where)[1]->first));
  EXPECT_EQ(q.group_by.at(0).column, "singer.name");
  EXPECT_EQ(conditions_of(q.having).at(0)->op, Comparison::kGreaterEqual);
  EXPECT_TRUE(q.descending);
  EXPECT_EQ(q.order_by.at(0).left.aggregate, Aggregate::kAvg);
  EXPECT_EQ(q.limit, 3);
}

TEST_F(SpiderSqlTest, RefusesWhatTheOfficialParserRefuses) {
  for (const char* sql : {"",
                          "SELECT",
                          "SELECT name",
                          "SELECT nme FROM singer",
                          "SELECT name FROM singers",
                          "SELECT T9.name FROM singer",
                          "SELECT name AS n FROM singer",
                          "SELECT T1.name FROM singer T1",
                          "SELECT name FROM singer , concert",
                          "SELECT name FROM singer LEFT JOIN concert ON singer_id = singer_id",
                          "SELECT name FROM singer WHERE age=30",
                          "SELECT name FROM singer WHERE age",
                          "SELECT name FROM singer WHERE age <> 3",
                          "SELECT upper(name) FROM singer",
                          "SELECT name FROM singer LIMIT x",
                          "SELECT name FROM singer LIMIT",
                          "SELECT name FROM singer HAVING age > 3",
                          "SELECT name FROM singer WHERE name = 'it''s'",
                          "SELECT `name` FROM singer",
                          "DROP TABLE singer",
                          "SELECT name FROM singer AS concert",
                          "SELECT name FROM (SELECT name FROM singer",
                          "SELECT a.b.c FROM singer",
                          "SELECT name FROM singer WHERE age IS NULL",
                          "SELECT name FROM singer AS",
                          "SELECT age - 1 FROM singer",
                          "SELECT name FROM singer WHERE age = 3 ESCAPED",
                          "SELECT * FROM (SELECT name FROM singer) AS x"}) {
    EXPECT_THROW(parse(sql), SpiderSyntaxError) << sql;
  }
  std::string deep = "SELECT name FROM singer";
  for (int i = 0; i < 1000; ++i) deep = "SELECT name FROM (" + deep + ")";
  EXPECT_THROW(parse(deep), SpiderSyntaxError);
}

TEST_F(SpiderSqlTest, AcceptsWhatTheOfficialParserAccepts) {
  for (const char* sql :
       {"select name from singer ;", "SELECT count(DISTINCT country) FROM singer", "SELECT age - singer_id FROM singer",
        "SELECT name FROM singer WHERE age>30", "SELECT * FROM (SELECT name FROM singer)",
        "SELECT name FROM singer LIMIT 1 OFFSET 2", "SELECT (name) FROM singer WHERE age > -1.5e1",
        "SELECT name FROM singer EXCEPT SELECT name FROM singer WHERE age = 1 and country like '%x%'"}) {
    EXPECT_NO_THROW(parse(sql)) << sql;
  }
}

TEST_F(SpiderSqlTest, HardnessLevels) {
  EXPECT_EQ(hardness("SELECT count(*) FROM singer"), "easy");
  EXPECT_EQ(hardness("SELECT name FROM singer WHERE age > 3"), "easy");
  EXPECT_EQ(hardness("SELECT name , age FROM singer WHERE age > 3"), "medium");
  EXPECT_EQ(hardness("SELECT name FROM singer WHERE age > 3 ORDER BY age"), "medium");
  EXPECT_EQ(hardness("SELECT name FROM singer WHERE age > 3 ORDER BY age LIMIT 1"), "hard");
  EXPECT_EQ(hardness("SELECT name FROM singer WHERE age > (SELECT avg(age) FROM singer)"), "hard");
  EXPECT_EQ(hardness("SELECT name , age FROM singer WHERE age > (SELECT avg(age) FROM singer)"), "extra");
  EXPECT_EQ(hardness("SELECT max(age) , min(age) FROM singer WHERE age > 1 AND country = 'x'"), "hard");
  EXPECT_EQ(hardness("SELECT name FROM singer UNION SELECT name FROM singer"), "hard");
}

TEST_F(SpiderSqlTest, ExactMatchIgnoresValuesOrderDistinctAndForeignKeyEnds) {
  EXPECT_TRUE(exact("SELECT name , age FROM singer WHERE age > 3", "SELECT age , name FROM singer WHERE age > 40"));
  EXPECT_TRUE(exact("SELECT DISTINCT name FROM singer", "SELECT name FROM singer"));
  EXPECT_TRUE(exact("SELECT name FROM singer WHERE age > 1 AND country = 'a'",
                    "SELECT name FROM singer WHERE country = 'b' AND age > 2"));
  const std::string join = " FROM singer AS T1 JOIN concert AS T2 ON T1.singer_id = T2.singer_id";
  EXPECT_TRUE(exact("SELECT T1.singer_id" + join, "SELECT T2.singer_id" + join));
  EXPECT_FALSE(exact("SELECT singer_id FROM singer", "SELECT singer_id FROM concert"));
}

TEST_F(SpiderSqlTest, ExactMatchSeesWhatDiffers) {
  EXPECT_FALSE(exact("SELECT name FROM singer", "SELECT name , name FROM singer"));
  EXPECT_FALSE(exact("SELECT max(age) FROM singer", "SELECT min(age) FROM singer"));
  EXPECT_FALSE(exact("SELECT name FROM singer WHERE age > 1", "SELECT name FROM singer WHERE age >= 1"));
  EXPECT_FALSE(
      exact("SELECT name FROM singer WHERE age > 1 OR age = 2", "SELECT name FROM singer WHERE age > 1 AND age = 2"));
  EXPECT_FALSE(exact("SELECT name FROM singer ORDER BY age", "SELECT name FROM singer ORDER BY age DESC"));
  EXPECT_FALSE(exact("SELECT name FROM singer ORDER BY age LIMIT 1", "SELECT name FROM singer ORDER BY age"));
  EXPECT_FALSE(exact("SELECT count(*) FROM singer GROUP BY age", "SELECT count(*) FROM singer GROUP BY country"));
  EXPECT_FALSE(exact("SELECT age FROM singer GROUP BY age HAVING count(*) > 1", "SELECT age FROM singer GROUP BY age"));
  EXPECT_FALSE(exact("SELECT name FROM singer UNION SELECT name FROM singer", "SELECT name FROM singer"));
  EXPECT_FALSE(exact("SELECT name FROM singer UNION SELECT name FROM singer",
                     "SELECT name FROM singer UNION SELECT country FROM singer"));
  EXPECT_FALSE(exact("SELECT name FROM singer WHERE age IN (SELECT age FROM singer)",
                     "SELECT name FROM singer WHERE age IN (SELECT DISTINCT age FROM singer)"));  // nested: it counts
  EXPECT_FALSE(match_exactly(parse("SELECT name FROM singer"), unparsed_query(), schema_, {}).exact);
}

TEST_F(SpiderSqlTest, PartialScoresNameTheClause) {
  const ExactMatch m = match("SELECT max(age) FROM singer WHERE age > 1", "SELECT min(age) FROM singer WHERE age = 1");
  std::vector<std::string> wrong;
  for (size_t i = 0; i < kPartialNames.size(); ++i) {
    if (!m.partial.at(i).matched) wrong.emplace_back(kPartialNames.at(i));
  }
  EXPECT_THAT(wrong, ElementsAre("select", "where"));
}

TEST_F(SpiderSqlTest, BrokenFilesAreDataErrors) {
  EXPECT_THROW(read_spider_tables(files_.folder() / "absent.json"), DataError);
  std::ofstream(files_.folder() / "broken.json") << "[{\"db_id\": \"x\", \"table_names_original\": 3}]";
  EXPECT_THROW(read_spider_tables(files_.folder() / "broken.json"), DataError);
  EXPECT_THROW(read_sqlite_schema(files_.folder() / "absent.sqlite"), DataError);
  EXPECT_THROW(read_sqlite_schema(files_.tables()), DataError);
}

}  // namespace
}  // namespace qlora
