#include "qlora/eval/score/result_table.h"

#include <stdexcept>

#include <gtest/gtest.h>

namespace qlora {
namespace {

using V = ValuePool::Value;
using Rows = std::vector<std::vector<V>>;

bool equal(const Rows& gold, const Rows& predicted, bool ordered = false) {
  ValuePool pool(1 << 20);
  const auto table = [&](const Rows& rows) {
    ResultTable t;
    for (const auto& row : rows) {
      t.columns = row.size();
      for (const auto& value : row) t.cells.push_back(pool.add(value));
    }
    return t;
  };
  const ResultTable a = table(gold);
  return results_equal(a, table(predicted), ordered, pool);
}

V i(int64_t n) {
  return ValuePool::integer(n);
}
V r(double x) {
  return ValuePool::real(x);
}
V t(const std::string& s) {
  return ValuePool::text(s);
}

TEST(ResultTable, BagsOfRows) {
  EXPECT_TRUE(equal({{i(1)}, {i(2)}, {i(1)}}, {{i(2)}, {i(1)}, {i(1)}}));
  EXPECT_FALSE(equal({{i(1)}, {i(2)}, {i(1)}}, {{i(2)}, {i(2)}, {i(1)}}));
  EXPECT_FALSE(equal({{i(1)}, {i(2)}}, {{i(2)}, {i(1)}}, true));
  EXPECT_FALSE(equal({{i(1)}}, {{i(1)}, {i(1)}}));
  EXPECT_TRUE(equal({}, {}));
  EXPECT_FALSE(equal({{i(1)}}, {}));
}

TEST(ResultTable, ColumnsMayStandInAnyOrder) {
  EXPECT_TRUE(equal({{i(1), t("a")}, {i(2), t("b")}}, {{t("b"), i(2)}, {t("a"), i(1)}}));
  EXPECT_TRUE(equal({{i(1), t("a")}, {i(2), t("b")}}, {{t("a"), i(1)}, {t("b"), i(2)}}, true));
  EXPECT_FALSE(equal({{i(1), t("a")}, {i(2), t("b")}}, {{t("a"), i(2)}, {t("b"), i(1)}}));
  EXPECT_FALSE(equal({{i(1), t("a")}}, {{i(1)}}));
  // Each column alone is the same bag in both, and each row alone too; no one order of the columns fits all rows.
  EXPECT_FALSE(equal({{i(1), i(2)}, {i(2), i(1)}, {i(1), i(2)}}, {{i(1), i(2)}, {i(2), i(1)}, {i(2), i(1)}}, true));
  EXPECT_TRUE(equal({{i(1), i(2)}, {i(2), i(1)}, {i(1), i(2)}}, {{i(1), i(2)}, {i(2), i(1)}, {i(2), i(1)}}));
}

TEST(ResultTable, ManyEqualColumnsAreNoWork) {
  const Rows wide(50, std::vector<V>(40, i(7)));
  EXPECT_TRUE(equal(wide, wide));
  Rows other = wide;
  other[3][5] = i(8);
  EXPECT_FALSE(equal(wide, other));
}

TEST(ResultTable, ValuesCompareAsInPython) {
  EXPECT_TRUE(equal({{i(1)}}, {{r(1.0)}}));
  EXPECT_TRUE(equal({{r(0.0)}}, {{r(-0.0)}}));
  EXPECT_FALSE(equal({{i(1)}}, {{t("1")}}));
  EXPECT_FALSE(equal({{t("a")}}, {{ValuePool::blob("a")}}));
  EXPECT_FALSE(equal({{ValuePool::null()}}, {{t("")}}));
  EXPECT_FALSE(equal({{r(0x1p63)}}, {{i(INT64_MAX)}}));
  EXPECT_FALSE(equal({{i(9007199254740993)}}, {{r(9007199254740992.0)}}));
}

TEST(ResultTable, KeepsTheQuirkOfSortingRowsByText) {
  // "1.5<class" sorts before "1<class", but "1.0<class" before "1.5<class": the official quick rejection says no.
  EXPECT_FALSE(equal({{i(1), r(1.5)}}, {{r(1.0), r(1.5)}}));
  EXPECT_TRUE(equal({{i(1), r(2.5)}}, {{r(1.0), r(2.5)}}));
}

TEST(ResultTable, SortKeysAreWhatPythonPrints) {
  ValuePool pool(1 << 20);
  EXPECT_EQ(pool.sort_key(pool.add(i(-3))), "-3<class 'int'>");
  EXPECT_EQ(pool.sort_key(pool.add(r(3))), "3.0<class 'float'>");
  EXPECT_EQ(pool.sort_key(pool.add(r(-0.0))), "-0.0<class 'float'>");
  EXPECT_EQ(pool.sort_key(pool.add(r(1e16))), "1e+16<class 'float'>");
  EXPECT_EQ(pool.sort_key(pool.add(r(1e-5))), "1e-05<class 'float'>");
  EXPECT_EQ(pool.sort_key(pool.add(r(0.1))), "0.1<class 'float'>");
  EXPECT_EQ(pool.sort_key(pool.add(t("x"))), "x<class 'str'>");
  EXPECT_EQ(pool.sort_key(pool.add(ValuePool::null())), "None<class 'NoneType'>");
  EXPECT_EQ(pool.sort_key(pool.add(ValuePool::blob(std::string("a\x01", 2)))), "b'a\\x01'<class 'bytes'>");
}

TEST(ResultTable, DropsBytesThatAreNoUtf8) {
  EXPECT_EQ(valid_utf8("a\xff"
                       "b\xc3\xa9\xe2\x82"),
            "ab\xc3\xa9");
  EXPECT_EQ(valid_utf8("\xed\xa0\x80z\xf0\x9f\x98\x80\xc0\x80"), "z\xf0\x9f\x98\x80");
  EXPECT_EQ(valid_utf8("\xe2"
                       "a"),
            "a");
}

TEST(ResultTable, BoundsWhatItHolds) {
  ValuePool pool(1000);
  EXPECT_THROW(
      {
        for (int64_t n = 0; n < 1000; ++n) pool.add(i(n));
      },
      std::length_error);
}

}  // namespace
}  // namespace qlora
