// The rows that `qlora train` works on.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "qlora/app/base_model.h"
#include "qlora/app/options.h"
#include "qlora/data/prepared_set.h"
#include "qlora/data/row_encoder.h"

namespace qlora {

struct TrainingData {
  PreparedSet train;
  std::optional<PreparedSet> eval;
  std::string fingerprint;
  ChatFormat format;
  std::optional<RowEncoder> encoder;
  std::optional<Dataset> eval_rows;  // as they were read: what eval_tasks are over
};

// Prepared now, or opened from prepared_dir. Throws as prepare_data and check_prepared; DataError where
// eval_strategy asks for evaluations and there is no row for them.
TrainingData open_training_data(const TrainJob& job, const std::filesystem::path& model);

}  // namespace qlora
