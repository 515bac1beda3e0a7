// Every failure has its exit code and its lines on stderr.
#include <new>
#include <stdexcept>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "qlora/app/failure.h"
#include "qlora/cli/commands.h"

namespace qlora {
namespace {

struct Output {
  int code;
  std::string out, err;
};

Output run(const std::vector<std::string>& arguments) {
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  const int code = run_program(arguments);
  return {code, testing::internal::GetCapturedStdout(), testing::internal::GetCapturedStderr()};
}

TEST(Failure, EveryExceptionHasItsCode) {
  const auto code = [](const std::exception& exception) { return as_error(exception).code(); };
  EXPECT_EQ(code(DataError("x")), ExitCode::kBadData);
  EXPECT_EQ(code(Diverged("x")), ExitCode::kDiverged);
  EXPECT_EQ(code(std::bad_alloc()), ExitCode::kOutOfMemory);
  EXPECT_EQ(code(std::logic_error("x")), ExitCode::kRuntime);
  EXPECT_STREQ(as_error(std::logic_error("why")).what(), "why");
}

TEST(Failure, LibtorchsErrorsAreOneLine) {
  try {
    at::ones({2, 3}).mm(at::ones({2, 3}));
    FAIL();
  } catch (const std::exception& exception) {
    const Error error = as_error(exception);
    EXPECT_EQ(error.code(), ExitCode::kRuntime);
    EXPECT_EQ(std::string(error.what()), "mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)");
  }
  try {
    at::empty({int64_t{1} << 52});
    FAIL();
  } catch (const std::exception& exception) {
    EXPECT_EQ(as_error(exception).code(), ExitCode::kOutOfMemory) << exception.what();
  }
}

TEST(Program, HelpAndReferenceGoToStdout) {
  for (const char* word : {"--help", "-h", "help", "--reference", "--version"}) {
    const Output output = run({word});
    EXPECT_EQ(output.code, 0) << word;
    EXPECT_NE(output.out, "") << word;
    EXPECT_EQ(output.err, "") << word;
  }
  EXPECT_EQ(run({}).out, run({"--help"}).out);
}

TEST(Program, ErrorsGoToStderrOneAProblem) {
  const Output output = run({"train", "--lora_r", "x", "--foo"});
  EXPECT_EQ(output.code, 2);
  EXPECT_EQ(output.out, "");
  EXPECT_EQ(output.err,
            "qlora train: error: --foo: unknown key\n"
            "qlora train: error: --lora_r: expected a whole number, got \"x\"\n");
  EXPECT_EQ(run({"tarin"}).err, "qlora tarin: error: unknown command \"tarin\"; did you mean train?\n");
  EXPECT_EQ(run({"xyz"}).err,
            "qlora xyz: error: unknown command \"xyz\"; known are prepare, train, eval, merge, chat\n");
}

}  // namespace
}  // namespace qlora
