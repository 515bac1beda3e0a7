// Sheets without names, and what is read back from them.
#include "qlora/eval/ratings.h"

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "qlora/core/error.h"
#include "qlora/eval/report_json.h"
#include "qlora/formats/csv.h"

#include "support/temporary_folder.h"

namespace qlora {
namespace {

using ::testing::HasSubstr;

class Ratings : public testing::Test {
 protected:
  // Forty rows; the runs answer "one-7" and "two-7", but for row 3, where they agree.
  static EvalResults results() {
    EvalResults results;
    for (const char* name : {"one", "two"}) {
      TaskResult task;
      task.task = "generate";
      for (int i = 0; i < 40; ++i) {
        EvalRow row;
        row.id = i;
        row.question = "= is it?";
        row.prediction = i == 3 ? "same, \"quoted\"" : std::string(name) + "-" + std::to_string(i);
        task.rows.push_back(row);
      }
      results.runs.push_back({name, "", {task}});
    }
    return results;
  }

  void write(const std::string& sheet) const {
    std::ofstream(path_, std::ios::binary) << sheet;
    std::ofstream(blind_key(path_), std::ios::binary) << blind_.key;
  }

  std::string error_of(const std::string& sheet) const {
    write(sheet);
    EvalResults judged;
    try {
      add_ratings(judged, path_);
    } catch (const DataError& error) {
      return error.what();
    }
    return "";
  }

  TemporaryFolder folder_;
  std::filesystem::path path_ = folder_.path() / "sheet.csv";
  BlindSheet blind_ = make_blind_sheet(results(), 5);
};

TEST_F(Ratings, ASheetNamesNoRunAndTheKeyKnowsWhichIsWhich) {
  write(blind_.sheet);
  const auto records = read_csv(path_);
  ASSERT_EQ(records.size(), 41u);
  const Json key = Json::parse(blind_.key);
  int first_is_a = 0;
  for (std::size_t i = 0; i < 40; ++i) {
    const auto& fields = records[i + 1].fields;
    ASSERT_EQ(fields.size(), 6u);
    EXPECT_EQ(fields[0], std::to_string(i));
    EXPECT_EQ(fields[2], "'= is it?");
    EXPECT_EQ(fields[5], i == 3 ? "tie" : "");
    if (i == 3) continue;
    const std::string a = key["rows"][i]["a"].get<std::string>();
    first_is_a += a == "one" ? 1 : 0;
    EXPECT_EQ(fields[3], a + "-" + std::to_string(i));
    EXPECT_EQ(fields[4], (a == "one" ? "two-" : "one-") + std::to_string(i));
  }
  EXPECT_GT(first_is_a, 8);
  EXPECT_LT(first_is_a, 31);
  EXPECT_EQ(make_blind_sheet(results(), 5).sheet, blind_.sheet);
  EXPECT_NE(make_blind_sheet(results(), 6).sheet, blind_.sheet);
}

TEST_F(Ratings, PreferencesBecomeWinsLossesAndTies) {
  // "two" is preferred in rows 10 to 15, "one" in 20 and 21, 30 is a tie; 3 is one anyhow. Rows and columns are
  // shuffled.
  const Json key = Json::parse(blind_.key);
  std::string sheet = "notes,preference,row\r\n";
  for (int i = 39; i >= 0; --i) {
    const bool one_is_a = key["rows"][static_cast<std::size_t>(i)]["a"] == "one";
    std::string preference = i == 3 || i == 30 ? " Tie" : "";
    if (i >= 10 && i <= 15) preference = one_is_a ? "b" : "A";
    if (i == 20 || i == 21) preference = one_is_a ? "a" : "b";
    sheet += csv_line({"x", preference, std::to_string(i)});
  }
  write(sheet);
  EvalResults judged = results();
  add_ratings(judged, path_);
  EXPECT_EQ(judged.base, "one");
  const Json report = report_json(judged, 1);
  const Json& pair = report["paired"]["two"]["ratings"]["preferred"];
  EXPECT_EQ(pair["wins"], 6);
  EXPECT_EQ(pair["losses"], 2);
  EXPECT_EQ(pair["ties"], 2);
  EXPECT_DOUBLE_EQ(pair["tuned"].get<double>(), 0.7);
  EXPECT_NEAR(pair["p_value"].get<double>(), 2.0 * (1 + 8 + 28) / 256, 1e-12);
  EXPECT_EQ(report["runs"]["two"]["tasks"]["ratings"]["n_scored"], 10);
  EXPECT_EQ(report["paired_with"], "one");

  EvalResults alone;
  add_ratings(alone, path_);
  EXPECT_EQ(report_json(alone, 1)["paired"]["two"]["ratings"], report["paired"]["two"]["ratings"]);
}

TEST_F(Ratings, WhatIsNoPreferenceIsNamed) {
  EXPECT_THAT(error_of("row,preference\n0,a\n1,c\n"), HasSubstr("sheet.csv:3: 'c' is no preference"));
  EXPECT_THAT(error_of("row,preference\n0,a\n0,b\n"), HasSubstr("sheet.csv:3: row 0 is there twice"));
  EXPECT_THAT(error_of("row,preference\n40,a\n"), HasSubstr("sheet.csv:2: there is no row 40"));
  EXPECT_THAT(error_of("row,preference\nx,a\n"), HasSubstr("sheet.csv:2: 'x' is no number of a row"));
  EXPECT_THAT(error_of("row,preference\n7\n"), HasSubstr("sheet.csv:2: too few columns"));
  EXPECT_THAT(error_of("row;preference\n0;a\n"), HasSubstr("sheet.csv:1: no column 'row'"));
  EXPECT_THAT(error_of("row,preference\n0,\n"), HasSubstr("no row has a preference"));
}

TEST_F(Ratings, ASheetIsOfTwoRunsAndNeverWrittenOver) {
  EvalOptions options;
  options.tasks = {"perplexity", "generate"};
  check_blind(options, 1);
  options.blind = path_.string();
  check_blind(options, 2);
  EXPECT_THROW(check_blind(options, 1), UsageError);
  EXPECT_THROW(check_blind(options, 3), UsageError);
  options.tasks = {"mmlu"};
  EXPECT_THROW(check_blind(options, 2), UsageError);
  options.tasks = {"spider"};
  write("judged");
  EXPECT_THROW(check_blind(options, 2), UsageError);
}

}  // namespace
}  // namespace qlora
