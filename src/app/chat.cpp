// The use case `qlora chat`.
#include "qlora/app/commands.h"
#include "qlora/core/error.h"

namespace qlora {

int run_chat(const ChatJob&) {
  throw UsageError("qlora chat is not built yet");
}

}  // namespace qlora
