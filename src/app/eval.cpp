// The use case `qlora eval`.
#include "qlora/app/commands.h"
#include "qlora/app/eval_model.h"
#include "qlora/app/eval_predictions.h"
#include "qlora/core/atomic_file.h"
#include "qlora/eval/ratings.h"
#include "qlora/eval/task_scores.h"

namespace qlora {
namespace {

// The report of a judged sheet alone. `judged`: its runs.
int run_eval_ratings(const EvalJob& job, const EvalResults& judged) {
  check_eval_options(job.eval);
  check_blind(job.eval, 0);
  if (!job.common.dry_run) return finish_eval(job, {});
  Json runs = Json::array();
  for (const EvalRun& run : judged.runs) runs.push_back({{"name", run.name}, {"adapter", nullptr}});
  return print_eval_plan(job, judged.runs.front().tasks.front().rows.size(), runs);
}

}  // namespace

int run_eval(const EvalJob& job) {
  require_folder(job.common.output_dir);
  EvalResults judged;
  if (!job.eval.ratings.empty()) add_ratings(judged, job.eval.ratings);  // what is wrong with it is said now
  if (job.eval.tasks.empty()) return run_eval_ratings(job, judged);
  return job.eval.predictions.empty() ? run_eval_model(job) : run_eval_predictions(job);
}

}  // namespace qlora
