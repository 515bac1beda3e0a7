// Messages to people, on stderr: stdout belongs to results.
#pragma once

#include <string>
#include <utility>

#include <spdlog/fmt/fmt.h>

namespace qlora {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// What is below `level` is left out; `quiet` leaves out all below warnings, and progress.
void set_up_log(LogLevel level, bool quiet);

// One line, with "warning: " or "error: " before it, coloured where stderr is a terminal and NO_COLOR is not set. Safe
// from several threads; a progress line makes room for it.
void log_line(LogLevel level, const std::string& message);

template <class... Args>
void log_debug(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::kDebug, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::kInfo, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::kWarning, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_error(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::kError, fmt::format(format, std::forward<Args>(args)...));
}

// Whether that stream may be coloured: a terminal (not a dumb one), and NO_COLOR unset or empty.
bool stderr_takes_colour();
bool stdout_takes_colour();
// Whether progress is worth drawing: stderr is a terminal and the log is not quiet.
bool progress_is_shown();

// The line that stays at the terminal's bottom while log lines scroll above it; empty removes it.
void set_bottom_line(const std::string& text);

}  // namespace qlora
