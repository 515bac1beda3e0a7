// The use case `qlora train`.
#include "qlora/app/commands.h"
#include "qlora/core/error.h"

namespace qlora {

int run_train(const TrainJob&) {
  throw UsageError("qlora train is not built yet");
}

}  // namespace qlora
