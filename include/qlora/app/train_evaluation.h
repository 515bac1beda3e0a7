// eval_tasks of `qlora train`: tasks of `qlora eval`, scored while a model is trained.
#pragma once

#include <cstdint>
#include <filesystem>

#include "qlora/app/eval_tasks.h"
#include "qlora/app/options.h"
#include "qlora/app/training_data.h"
#include "qlora/core/json.h"

namespace qlora {

class TrainingEvaluation {
 public:
  // The first max_eval_samples rows of the evaluation set. `model`: its folder; `data` must outlive it. Throws as
  // EvalTasks; UsageError where metric_for_best_model is a score that these rows cannot have.
  TrainingEvaluation(const TrainJob& job, const std::filesystem::path& model, const TrainingData& data);

  // The scores of the decoder as it is, by evaluation_key(). It is run as it stands: no weight is copied.
  Json scores(Decoder& decoder);

  // What scores() takes on the device at most beside the decoder.
  std::int64_t bytes(const Decoder& decoder) const { return tasks_.bytes(decoder); }

 private:
  EvalTasks tasks_;
};

}  // namespace qlora
