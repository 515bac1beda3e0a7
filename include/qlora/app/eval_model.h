// `qlora eval` with a model: each run's tasks over one loaded base.
#pragma once

#include "qlora/app/options.h"

namespace qlora {

// The base (where asked, or where there is no adapter), then every adapter, on the same rows. Ends as finish_eval does.
int run_eval_model(const EvalJob& job);

}  // namespace qlora
