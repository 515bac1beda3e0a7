// Any exception as an Error, so that every failure has its exit code and one line.
#pragma once

#include <exception>

#include "qlora/core/error.h"

namespace qlora {

// An Error as it is; memory that could not be had, on the host or a device, as OutOfMemory; what libtorch throws
// without its stack trace; all else as RuntimeFailure.
Error as_error(const std::exception& exception);

}  // namespace qlora
