// The use case `qlora merge`.
#include "qlora/app/commands.h"
#include "qlora/core/error.h"

namespace qlora {

int run_merge(const MergeJob&) {
  throw UsageError("qlora merge is not built yet");
}

}  // namespace qlora
