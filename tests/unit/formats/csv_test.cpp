#include "qlora/formats/csv.h"

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "qlora/core/error.h"

#include "support/temporary_folder.h"

namespace qlora {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(Csv, FieldsAndRecords) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "a.csv";
  std::ofstream(path, std::ios::binary) << "\xef\xbb\xbf"
                                           "a,\"b, \"\"c\"\"\nd\",\r\n\n5\" long,\"\",x\r\"y\n,\nlast";
  const auto records = read_csv(path);
  ASSERT_EQ(records.size(), 4u);
  EXPECT_THAT(records[0].fields, ElementsAre("a", "b, \"c\"\nd", ""));
  EXPECT_THAT(records[1].fields, ElementsAre("5\" long", "", "x\r\"y"));
  EXPECT_EQ(records[1].line, 4u);
  EXPECT_THAT(records[2].fields, ElementsAre("", ""));
  EXPECT_THAT(records[3].fields, ElementsAre("last"));
}

TEST(Csv, AQuoteThatStaysOpenIsNamed) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "a.csv";
  std::ofstream(path) << "a\n\"b\nc\n";
  try {
    read_csv(path);
    FAIL();
  } catch (const DataError& error) {
    EXPECT_THAT(error.what(), HasSubstr("a.csv:2: a quoted field does not end"));
  }
  EXPECT_THROW(read_csv(folder.path()), DataError);
  EXPECT_THROW(read_csv(folder.path() / "absent.csv"), DataError);
}

TEST(Csv, WhatIsWrittenIsReadBack) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "a.csv";
  const std::vector<std::string> fields = {"plain", "", " a ", "one, two", "say \"x\"", "two\nlines\r\n", "\"", "last"};
  EXPECT_EQ(csv_line({"a", "b c", "d,e"}), "a,b c,\"d,e\"\r\n");
  std::ofstream(path, std::ios::binary) << csv_line(fields) << csv_line({"x"});
  const auto records = read_csv(path);
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[0].fields, fields);
  EXPECT_THAT(records[1].fields, ElementsAre("x"));
}

}  // namespace
}  // namespace qlora
