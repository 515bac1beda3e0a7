// The use case `qlora eval`.
#include "qlora/app/commands.h"
#include "qlora/app/eval_model.h"
#include "qlora/app/eval_predictions.h"
#include "qlora/core/atomic_file.h"

namespace qlora {

int run_eval(const EvalJob& job) {
  require_folder(job.common.output_dir);
  return job.eval.predictions.empty() ? run_eval_model(job) : run_eval_predictions(job);
}

}  // namespace qlora
