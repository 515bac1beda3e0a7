// Errors with an exit code. A message names the cause, the place and what to do; only main() turns one into an exit.
#pragma once

#include <stdexcept>
#include <string>

namespace qlora {

// The documented exit codes of the program.
enum class ExitCode : int {
  kOk = 0,
  kRuntime = 1,
  kUsage = 2,    // flags, config, a feature that is not built yet
  kBadData = 3,  // a data set, model, tokenizer or adapter that cannot be used as it is
  kOutOfMemory = 4,
  kNetwork = 5,
  kDiverged = 6,     // NaN or Inf
  kScoreMissed = 7,  // --require
  kInterrupted = 130,
  kTerminated = 143,
};

class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

// One class a code, so that a throw reads as what went wrong.
template <ExitCode kCode>
class ErrorOf : public Error {
 public:
  explicit ErrorOf(const std::string& message) : Error(kCode, message) {}
};

using RuntimeFailure = ErrorOf<ExitCode::kRuntime>;
using UsageError = ErrorOf<ExitCode::kUsage>;
using DataError = ErrorOf<ExitCode::kBadData>;
using OutOfMemory = ErrorOf<ExitCode::kOutOfMemory>;
using NetworkError = ErrorOf<ExitCode::kNetwork>;
using Diverged = ErrorOf<ExitCode::kDiverged>;

}  // namespace qlora
