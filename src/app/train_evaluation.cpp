#include "qlora/app/train_evaluation.h"

#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/eval/task_scores.h"

namespace qlora {
namespace {

EvalJob eval_job_of(const TrainJob& job) {
  EvalJob eval{job.common, job.model, job.data, job.generate, job.eval};
  eval.eval.tasks = job.train.eval_tasks;
  eval.eval.limit = job.train.max_eval_samples;
  eval.generate.beside_training = true;
  // Rows that val_size takes come from there, and so do Spider's databases.
  if (eval.data.eval_dataset.empty()) eval.data.eval_dataset = job.data.dataset;
  return eval;
}

}  // namespace

TrainingEvaluation::TrainingEvaluation(const TrainJob& job, const std::filesystem::path& model,
                                       const TrainingData& data)
    : tasks_(eval_job_of(job), model, *data.encoder, data.eval_rows ? &*data.eval_rows : nullptr) {
  const auto best = task_score_of(job.train.metric_for_best_model, job.train.eval_tasks);
  if (best && best->task == "generate" && !tasks_.rows_carry_answers()) {
    throw UsageError(fmt::format("metric_for_best_model: no evaluation row carries an answer, so there is no {}",
                                 evaluation_key(*best)));
  }
}

Json TrainingEvaluation::scores(Decoder& decoder) {
  PartialResults nothing;
  Json scores = Json::object();
  for (const TaskResult& task : tasks_.run("evaluation", decoder, nothing)) {
    for (std::size_t i = 0; i < task.scores.size(); ++i) {
      if (const auto score = score_over_rows(task, i)) scores[evaluation_key({task.task, task.scores[i]})] = *score;
    }
    for (const auto& [name, score] : task.overall) scores[evaluation_key({task.task, name})] = score;
  }
  return scores;
}

}  // namespace qlora
