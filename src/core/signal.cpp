// The handler does what is safe in a handler: it sets a flag, or leaves.
#include "qlora/core/signal.h"

#include <signal.h>
#include <unistd.h>

#include <cstring>
#include <string_view>

namespace qlora {
namespace {

volatile sig_atomic_t received = 0;

void on_signal(int number) {
  if (received == SIGINT && number == SIGINT) _exit(static_cast<int>(ExitCode::kInterrupted));
  received = number;
}

void leave(int number) {
  const std::string_view text = number == SIGINT ? "qlora: stopped by SIGINT\n" : "qlora: stopped by SIGTERM\n";
  if (write(STDERR_FILENO, text.data(), text.size()) < 0) {
    // There is nobody to tell.
  }
  _exit(static_cast<int>(number == SIGINT ? ExitCode::kInterrupted : ExitCode::kTerminated));
}

void handle_with(void (*handler)(int)) {
  struct sigaction action;
  std::memset(&action, 0, sizeof(action));
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

}  // namespace

void exit_on_signals() {
  handle_with(leave);
}

void watch_signals() {
  handle_with(on_signal);
}

bool stop_requested() {
  return received != 0;
}

ExitCode stop_code() {
  if (received == SIGTERM) return ExitCode::kTerminated;
  return received == SIGINT ? ExitCode::kInterrupted : ExitCode::kOk;
}

void throw_if_stopped() {
  if (!stop_requested()) return;
  throw Error(stop_code(), stop_code() == ExitCode::kTerminated ? "stopped by SIGTERM" : "stopped by SIGINT");
}

}  // namespace qlora
