// SIGINT and SIGTERM as a flag that long loops look at.
#pragma once

#include "qlora/core/error.h"

namespace qlora {

// From here on SIGINT and SIGTERM end the process at once, with the exit codes 130 and 143.
void exit_on_signals();

// From here on SIGINT and SIGTERM set a flag; a second SIGINT ends the process at once with exit code 130.
void watch_signals();

// Whether a signal has come.
bool stop_requested();

// Its exit code: kInterrupted or kTerminated; kOk where none has come.
ExitCode stop_code();

// Throws an Error with that code ("stopped by SIGINT") where one has come. For loops that leave nothing behind.
void throw_if_stopped();

}  // namespace qlora
