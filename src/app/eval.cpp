// The use case `qlora eval`.
#include "qlora/app/commands.h"
#include "qlora/core/error.h"

namespace qlora {

int run_eval(const EvalJob&) {
  throw UsageError("qlora eval is not built yet");
}

}  // namespace qlora
