#include "qlora/eval/score/plug_values.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace qlora {
namespace {

using ::testing::ElementsAre;
using ::testing::UnorderedElementsAre;

std::vector<std::string> ways(std::string_view gold, std::string_view prediction) {
  ValuePlugging plugging(gold, prediction);
  std::vector<std::string> all;
  while (const auto sql = plugging.next()) all.push_back(*sql);
  return all;
}

TEST(PlugValues, EveryPlaceTakesEveryDistinctValue) {
  EXPECT_THAT(
      ways("SELECT a FROM t WHERE b = 'x Y' AND c > 3 AND d = 'x Y'", "SELECT A FROM t WHERE B='value' LIMIT 1;"),
      UnorderedElementsAre("select a from t where b = 'x Y' limit 'x Y'", "select a from t where b = 'x Y' limit 3",
                           "select a from t where b = 3 limit 'x Y'", "select a from t where b = 3 limit 3"));
}

TEST(PlugValues, WithoutPlacesOrWithoutValues) {
  EXPECT_THAT(ways("SELECT 1", "SELECT DISTINCT T1.Name FROM x AS T1"), ElementsAre("select t1 . name from x as t1"));
  EXPECT_THAT(ways("SELECT a FROM t", "SELECT a FROM t"), ElementsAre("select a from t"));
  EXPECT_THAT(ways("SELECT a FROM t", "SELECT a FROM t LIMIT 1"), ElementsAre());
}

TEST(PlugValues, WhatCountsAsAValue) {
  const auto values = [](std::string_view gold) { return ways(gold, "1"); };
  EXPECT_THAT(values("a>5 AND b<= -2 AND c = 3.50 AND d-7"), UnorderedElementsAre("5", "-2", "3.50", "-7"));
  EXPECT_THAT(values("t1.a = T2.b AND x2y = \"it's\""), UnorderedElementsAre("\"it's\""));
  EXPECT_THAT(values("c2 = 'a''b'"), UnorderedElementsAre("c2", "'a''b'")) << "a quirk";
  EXPECT_THAT(values("count(*)>=10 OR `12` = .5"), UnorderedElementsAre("10", ".5"));
  EXPECT_THAT(values("5 ; SELECT 6"), UnorderedElementsAre("5")) << "the first statement alone";
}

}  // namespace
}  // namespace qlora
