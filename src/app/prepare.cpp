// The use case `qlora prepare`.
#include "qlora/app/commands.h"
#include "qlora/core/error.h"

namespace qlora {

int run_prepare(const PrepareJob&) {
  throw UsageError("qlora prepare is not built yet");
}

}  // namespace qlora
