#include "qlora/formats/json_rows.h"

#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "qlora/core/error.h"

#include "support/temporary_folder.h"

namespace qlora {
namespace {

using ::testing::HasSubstr;

class JsonRowsTest : public ::testing::Test {
 protected:
  std::string write(const std::string& bytes) { return folder_.write("rows.json", bytes); }
  // The error of opening the file or of parsing its first bad row.
  std::string error_of(const std::string& bytes) {
    try {
      const JsonRows rows(write(bytes));
      for (std::size_t i = 0; i < rows.size(); ++i) rows.parse(i);
    } catch (const DataError& error) {
      return error.what();
    }
    return "no error";
  }

  const TemporaryFolder folder_;
  const std::filesystem::path path_ = folder_.path() / "rows.json";
};

TEST_F(JsonRowsTest, ReadsLinesArraysAndByteOrderMarks) {
  for (const char* bytes :
       {"{\"a\":1}\n{\"a\":2}\n", "\xEF\xBB\xBF{\"a\":1}\r\n\r\n  {\"a\":2}", "[{\"a\":1},\n{\"a\":2}]\n",
        " [ {\"a\":1} , {\"a\":2} ] ", "\xEF\xBB\xBF[{\"a\":1},{\"a\":2}]"}) {
    const JsonRows rows(write(bytes));
    ASSERT_EQ(rows.size(), 2U) << bytes;
    EXPECT_EQ(rows.parse(0)["a"], 1) << bytes;
    EXPECT_EQ(rows.parse(1)["a"], 2) << bytes;
  }
  EXPECT_EQ(JsonRows(write("")).size(), 0U);
  EXPECT_EQ(JsonRows(write(" \n\n")).size(), 0U);
  EXPECT_EQ(JsonRows(write("[]")).size(), 0U);
}

TEST_F(JsonRowsTest, BracketsInsideOfStringsDoNotSplit) {
  const JsonRows rows(write(R"([{"a":"]},{[\"\\"},{"b":[{"c":"}"}]}])"));
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(rows.parse(0)["a"], "]},{[\"\\");
  EXPECT_EQ(rows.parse(1)["b"][0]["c"], "}");
}

TEST_F(JsonRowsTest, KeepsTheOrderOfKeysAndTheSource) {
  const JsonRows rows(write("\n {\"z\": 1, \"a\": 2, \"m\": 3} \r\n"));
  EXPECT_EQ(rows.parse(0).dump(), R"({"z":1,"a":2,"m":3})");
  EXPECT_EQ(rows.source(0), R"({"z": 1, "a": 2, "m": 3})");
  EXPECT_EQ(rows.place(0), path_.string() + ":2");
}

TEST_F(JsonRowsTest, RowsThatShareALineHaveColumns) {
  const JsonRows rows(write("[{\"a\":1}, {\"a\":2,\n\"b\":3}, {}, 5,\n  {\"a\":4}]"));
  ASSERT_EQ(rows.size(), 5U);
  const char* const expected[] = {":1:2", ":1:11", ":2:9", ":2:13", ":3"};
  for (std::size_t i = 0; i < rows.size(); ++i) EXPECT_EQ(rows.place(i), path_.string() + expected[i]) << i;
  EXPECT_EQ(JsonRows(write("[\n{\"a\":1}\n]")).place(0), path_.string() + ":2");
}

TEST_F(JsonRowsTest, OneObjectMayTakeSeveralLines) {
  const JsonRows rows(write("\xEF\xBB\xBF\n {\n  \"a\": \"}\",\n  \"b\": [\n{}]\n }\n\n"));
  ASSERT_EQ(rows.size(), 1U);
  EXPECT_EQ(rows.parse(0)["a"], "}");
  EXPECT_EQ(rows.place(0), path_.string() + ":2");
  EXPECT_THAT(error_of("{\n \"a\": }"), HasSubstr(path_.string() + ":2:7: broken JSON"));
  const std::string lines = "rows are one object a line, or a list [...] of them";
  EXPECT_THAT(error_of("{\n\"a\":1\n}\n{\n\"a\":2\n}\n"), HasSubstr(lines));
  EXPECT_THAT(error_of("{\n\"a\":1\n"), HasSubstr(lines));
}

TEST_F(JsonRowsTest, ErrorsNameFileLineAndColumn) {
  EXPECT_THAT(error_of("{\"a\":1}\n{\"a\":}\n"), HasSubstr(path_.string() + ":2:6: broken JSON"));
  EXPECT_THAT(error_of("[{\"a\":1},\n {\"a\" 2}]"), HasSubstr(path_.string() + ":2:7: broken JSON"));
  EXPECT_THAT(error_of("[{\"a\":1} {\"a\":2}]"), HasSubstr(path_.string() + ":1:10: a comma or ] is missing"));
  EXPECT_THAT(error_of("[{\"a\":1},]"), HasSubstr(path_.string() + ":1:10: a value is missing"));
  EXPECT_THAT(error_of("[{\"a\":1}"), HasSubstr(":1:9: the array that it begins is not closed"));
  EXPECT_THAT(error_of("[{\"a\":1},\n{\"a\":\"x}]"), HasSubstr(":2:1: this value has no end"));
  EXPECT_THAT(error_of("[{\"a\":1}]\n{}"), HasSubstr(":2:1: nothing may follow the array"));
  EXPECT_THAT(error_of("{\"a\":1}\n[1]"), HasSubstr(path_.string() + ":2: a row must be a JSON object"));
  EXPECT_THAT(error_of("[1]"), HasSubstr("a row must be a JSON object ({...}), this is number"));
  EXPECT_THAT(error_of("{\"a\":\"\xFF\"}"), HasSubstr("ill-formed UTF-8"));
  EXPECT_THAT(error_of("{\"a\":1"), HasSubstr(":1:7: broken JSON"));
}

TEST_F(JsonRowsTest, RefusesDeepNestingInBoundedMemory) {
  const std::string deep(JsonRows::kMaxDepth, '[');
  EXPECT_THAT(error_of("{\"a\":" + deep + "}"), HasSubstr("nested deeper than 256"));
  EXPECT_THAT(error_of("{\"a\":" + std::string(1 << 20, '[') + "}"), HasSubstr("nested deeper than 256"));
  const std::string sound = std::string(JsonRows::kMaxDepth - 1, '[') + std::string(JsonRows::kMaxDepth - 1, ']');
  EXPECT_EQ(error_of("{\"a\":" + sound + "}"), "no error");
}

TEST_F(JsonRowsTest, MissingFilesAndFoldersAreNamed) {
  EXPECT_THROW(JsonRows("/nowhere/rows.json"), DataError);
  EXPECT_THROW(JsonRows(std::filesystem::temp_directory_path()), DataError);
}

}  // namespace
}  // namespace qlora
