#include "qlora/eval/terminal_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace qlora {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(TerminalTable, AlignsByCharactersAndDropsWhatDoesNotFit) {
  const std::vector<std::vector<std::string>> rows = {{"score", "base", "tuned"}, {"é", "1", "2"}};
  EXPECT_EQ(text_table(rows, 80), "score  base  tuned\né         1      2\n");
  EXPECT_EQ(text_table(rows, 12), "score  base\né         1\n");
  EXPECT_EQ(text_table(rows, 3), "score  base\né         1\n") << "two columns always";
  EXPECT_EQ(text_table({{"\x1b[1ma\x1b[0m", "b"}, {"cc", "d"}}, 80), "\x1b[1ma\x1b[0m   b\ncc  d\n");
}

TEST(TerminalTable, ReportHasPairsGroupsAndTheOtherReading) {
  const Json task = {{"n", 2},
                     {"overall", {{"execution", 0.5}}},
                     {"by", {{"easy", {{"n", 2}, {"execution", 0.5}}}}},
                     {"extracted", {{"execution", 1.0}}}};
  const Json pair = {{"base", 0.75},    {"tuned", 0.5},           {"wins", 1}, {"losses", 2}, {"ties", 1},
                     {"p_value", 1e-9}, {"interval", {-0.5, 0.1}}};
  const Json report = {
      {"runs", {{"base", {{"tasks", {{"spider", task}}}}}, {"tuned", {{"tasks", {{"spider", task}}}}}}},
      {"paired", {{"tuned", {{"spider", {{"execution", pair}}}}}}}};
  const std::string plain = terminal_report(report, 120, false);
  for (const char* part : {"tuned: spider, 2 rows", "75.00 %", "-25.00", "< 0.0001", "[-50.00, +10.00]", "easy (2)",
                           "extracted", "100.00 %"}) {
    EXPECT_THAT(plain, HasSubstr(part));
  }
  EXPECT_THAT(plain, Not(HasSubstr("\x1b")));
  EXPECT_THAT(terminal_report(report, 120, true), HasSubstr("\x1b[31m-25.00\x1b[0m"));
}

TEST(TerminalTable, LossesArePlainNumbersOfWhichLessIsBetter) {
  const auto task = [](double loss, double perplexity) {
    return Json{
        {"n", 2}, {"overall", {{"nll", loss}, {"loss", loss}, {"perplexity", perplexity}}}, {"by", Json::object()}};
  };
  const Json pair = {{"base", 2.5},
                     {"tuned", 2.0},
                     {"wins", 2},
                     {"losses", 0},
                     {"ties", 0},
                     {"p_value", 0.5},
                     {"interval", {-0.75, -0.25}}};
  const Json report = {{"runs",
                        {{"base", {{"tasks", {{"perplexity", task(2.5, 12.18249)}}}}},
                         {"tuned", {{"tasks", {{"perplexity", task(2.0, 7.389056)}}}}}}},
                       {"paired", {{"tuned", {{"perplexity", {{"nll", pair}}}}}}}};
  const std::string plain = terminal_report(report, 120, false);
  for (const char* part : {"2.5", "-0.5", "[-0.75, -0.25]", "12.18", "7.389", "-4.793"})
    EXPECT_THAT(plain, HasSubstr(part));
  EXPECT_THAT(plain, Not(HasSubstr("12.182")));
  EXPECT_THAT(plain, Not(HasSubstr("250")));
  EXPECT_THAT(terminal_report(report, 120, true), HasSubstr("\x1b[32m-0.5\x1b[0m"));
}

TEST(TerminalTable, AnswersAloneAreCounted) {
  const Json task = {{"n", 3}, {"overall", nullptr}, {"by", Json::object()}};
  const Json report = {{"runs", {{"base", {{"tasks", {{"generate", task}}}}}}}, {"paired", Json::object()}};
  EXPECT_EQ(terminal_report(report, 80, false), "base: generate, 3 rows generated\n");
}

}  // namespace
}  // namespace qlora
