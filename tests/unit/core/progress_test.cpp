// What a progress line says; signals as a flag; the nearest word.
#include "qlora/core/progress.h"

#include <signal.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "qlora/core/log.h"
#include "qlora/core/problem.h"
#include "qlora/core/signal.h"

namespace qlora {
namespace {

TEST(Progress, SaysShareRateAndTimeLeft) {
  EXPECT_EQ(progress_text("rows", 3500, 7000, 0.28), "rows  3500/7000  50%  12.5k/s  0:00 left");
  EXPECT_EQ(progress_text("steps", 10, 100, 40), "steps  10/100  10%  0.25/s  6:00 left");
  EXPECT_EQ(progress_text("steps", 0, 100, 0), "steps  0/100  0%");
  EXPECT_EQ(progress_text("rows", 30, 0, 2), "rows  30  15/s");
  EXPECT_EQ(progress_text("bytes", 4'000'000, 4'000'000, 2), "bytes  4000000/4000000  100%  2.0M/s");
  EXPECT_EQ(clock_text(59.6), "1:00");
  EXPECT_EQ(clock_text(3661), "1:01:01");
}

TEST(Progress, DrawsNothingWithoutATerminal) {
  testing::internal::CaptureStderr();
  {
    Progress progress("rows", 10);
    for (int i = 0; i < 10; ++i) progress.step();
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST(Log, LevelsAndQuiet) {
  const auto printed = [](LogLevel level, bool quiet) {
    testing::internal::CaptureStderr();
    set_up_log(level, quiet);
    log_debug("d {}", 1);
    log_info("i");
    log_warning("w");
    log_error("{}", "e {}");
    return testing::internal::GetCapturedStderr();
  };
  EXPECT_EQ(printed(LogLevel::kDebug, false), "debug: d 1\ni\nwarning: w\nerror: e {}\n");
  EXPECT_EQ(printed(LogLevel::kInfo, true), "warning: w\nerror: e {}\n");
  EXPECT_EQ(printed(LogLevel::kError, true), "error: e {}\n");
  EXPECT_EQ(printed(LogLevel::kInfo, false), "i\nwarning: w\nerror: e {}\n");
}

TEST(SignalDeathTest, ASignalSetsAFlagAndASecondInterruptEnds) {
  EXPECT_EXIT(
      {
        watch_signals();
        if (stop_requested() || stop_code() != ExitCode::kOk) _exit(1);
        raise(SIGTERM);
        _exit(stop_requested() ? static_cast<int>(stop_code()) : 2);
      },
      testing::ExitedWithCode(143), "");
  EXPECT_EXIT(
      {
        watch_signals();
        raise(SIGINT);
        try {
          throw_if_stopped();
        } catch (const Error& error) {
          if (error.code() != ExitCode::kInterrupted || std::string(error.what()) != "stopped by SIGINT") _exit(3);
        }
        raise(SIGINT);
        _exit(4);
      },
      testing::ExitedWithCode(130), "");
}

TEST(SignalDeathTest, WithoutAWatchASignalEndsWithItsCode) {
  const auto raised = [](int number) {
    exit_on_signals();
    raise(number);
    _exit(1);
  };
  EXPECT_EXIT(raised(SIGINT), testing::ExitedWithCode(130), "");
  EXPECT_EXIT(raised(SIGTERM), testing::ExitedWithCode(143), "");
}

TEST(Nearest, ByEdits) {
  const std::vector<std::string> words = {"learning_rate", "lora_r", "lora_alpha", "seed"};
  EXPECT_EQ(nearest("learnign_rate", words), "learning_rate");
  EXPECT_EQ(nearest("lora_", words), "lora_r");
  EXPECT_EQ(nearest("lora-alpha", words), "lora_alpha");
  EXPECT_EQ(nearest("sed", words), "seed");
  EXPECT_EQ(nearest("weight_decay", words), "");
  EXPECT_EQ(nearest("", words), "");
}

}  // namespace
}  // namespace qlora
