// What each kind of exception means to a user.
#include "qlora/app/failure.h"

#include <new>
#include <string>

#include <c10/util/Exception.h>

namespace qlora {
namespace {

std::string first_line(const std::string& text) {
  return text.substr(0, text.find('\n'));
}

Error torch_error(const c10::Error& error) {
  const std::string message = first_line(error.what_without_backtrace());
  const bool no_memory = dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr ||
                         message.find("can't allocate memory") != std::string::npos;
  if (no_memory) return OutOfMemory(message + "; try a smaller batch or max_length");
  return RuntimeFailure(message);
}

}  // namespace

Error as_error(const std::exception& exception) {
  if (const auto* error = dynamic_cast<const Error*>(&exception)) return *error;
  if (const auto* error = dynamic_cast<const c10::Error*>(&exception)) return torch_error(*error);
  if (dynamic_cast<const std::bad_alloc*>(&exception) != nullptr) return OutOfMemory("out of host memory");
  return RuntimeFailure(exception.what());
}

}  // namespace qlora
