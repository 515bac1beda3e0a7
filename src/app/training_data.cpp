#include "qlora/app/training_data.h"

#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/data/prepare.h"

namespace qlora {
namespace {

namespace fs = std::filesystem;

ChatFormat format_of(const RowEncoder& encoder) {
  ChatFormat format = format_of(encoder.chat_template());
  if (encoder.adds_stop()) format.stop_ids = encoder.stop_ids();
  return format;
}

TrainingData open_data_of(const TrainJob& job, const fs::path& model) {
  const auto seed = static_cast<std::uint64_t>(job.common.seed);
  if (!job.data.prepared_dir.empty()) {
    OpenedData opened = open_prepared(job.data.prepared_dir);
    RowEncoder encoder = check_prepared(opened, model, job.data, seed);
    const ChatFormat format = format_of(encoder);
    const std::string fingerprint =
        read_json(fs::path(job.data.prepared_dir) / "manifest.json").at("fingerprint").get<std::string>();
    std::optional<Dataset> eval_rows;
    if (!job.train.eval_tasks.empty() && !job.data.eval_dataset.empty())
      eval_rows.emplace(job.data.eval_dataset, Dataset::Role::kEvaluation, seed);
    return {std::move(opened.train), std::move(opened.eval), fingerprint, format,
            std::move(encoder),      std::move(eval_rows)};
  }
  DataSources sources = open_data(job.data, seed);
  RowEncoder encoder(model, job.data, sources.datasets());
  PreparedData data = prepare_data(sources, encoder, read_model_limits(model), seed);
  for (const std::string& warning : data.warnings) log_warning("{}", warning);
  const RowCounts& counts = data.train.counts;
  log_info("{} of {} rows, {} tokens, {} of them labelled", counts.rows_kept, counts.rows_in, counts.tokens,
           counts.label_tokens);
  TrainingData result{std::move(data.train.rows), {}, data.fingerprint(),
                      format_of(encoder),         {}, std::move(sources.eval)};
  result.encoder.emplace(std::move(encoder));
  if (data.eval) result.eval = std::move(data.eval->rows);
  return result;
}

}  // namespace

TrainingData open_training_data(const TrainJob& job, const fs::path& model) {
  TrainingData data = open_data_of(job, model);
  if (data.train.empty()) throw DataError("dataset: no row is left to train on");
  if (job.train.eval_strategy != Strategy::kNo && (!data.eval || data.eval->empty())) {
    throw DataError("eval_strategy: there is no evaluation row; name an eval_dataset, set val_size, or choose no");
  }
  return data;
}

}  // namespace qlora
