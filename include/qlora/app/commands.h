// The use cases of the program. Each returns the exit code of a run that ended as it should (0, or 7 where a required
// score was missed) and throws Error for everything else.
#pragma once

#include "qlora/app/options.h"

namespace qlora {

int run_prepare(const PrepareJob& job);
int run_train(const TrainJob& job);
int run_eval(const EvalJob& job);
int run_merge(const MergeJob& job);
int run_chat(const ChatJob& job);

}  // namespace qlora
