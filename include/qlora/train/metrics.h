// What a run writes down while it goes: metrics.jsonl, a line a logged step, and Hugging Face's trainer_state.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "qlora/core/json.h"
#include "qlora/formats/tensorboard.h"

namespace qlora {

struct StepMetrics {
  std::int64_t step = 0;
  double epoch = 0.0;
  double loss = 0.0;       // mean over the labelled tokens of the effective batch
  double grad_norm = 0.0;  // before clipping
  double learning_rate = 0.0;
  std::int64_t tokens = 0;        // labels that have a token before them
  std::int64_t input_tokens = 0;  // all real tokens
  double seconds = 0.0;
  double memory_allocated_gib = 0.0;
  double memory_used_gib = 0.0;

  Json to_json() const;
};

// The lines of a metrics.jsonl; what is no JSON object (a killed run may leave half a line) is passed over.
std::vector<Json> read_metrics(const std::filesystem::path& path);

// Where the metrics of the run in `folder` are: metrics.jsonl, or aside until take_place_of_earlier().
std::filesystem::path metrics_path(const std::filesystem::path& folder);

// metrics.jsonl, appended line by line, and beside it the same as TensorBoard events under runs/.
class MetricsFile {
 public:
  // Lines of an earlier run beyond `keep_steps` are cut off, and so is the evaluation of that step where it is made
  // again; events are written anew from those that are kept, so no step is there twice. `aside`: the
  // earlier run's files stay for now; the destructor removes what has not taken their place.
  MetricsFile(const std::filesystem::path& folder, std::int64_t keep_steps, bool tensorboard,
              bool evaluates_again = false, bool aside = false);
  ~MetricsFile();
  MetricsFile(const MetricsFile&) = delete;
  MetricsFile& operator=(const MetricsFile&) = delete;
  // Throws RuntimeFailure naming the file.
  void write(const Json& line);
  // Puts what was written aside into its place, if anything was: the earlier run's result is about to go.
  static void take_place_of_earlier(const std::filesystem::path& folder);

 private:
  std::filesystem::path path_;
  std::ofstream file_;
  std::optional<TensorBoardFile> events_;
};

// trainer_state.json as transformers writes it: two-space indent, sorted keys.
struct TrainerState {
  std::int64_t global_step = 0, max_steps = 0, logging_steps = 0, eval_steps = 0, save_steps = 0, train_batch_size = 0;
  std::int64_t input_tokens = 0;
  double epoch = 0.0, num_train_epochs = 0.0;
  Json log_history = Json::array();
  Json best_metric, best_global_step, best_model_checkpoint;  // null: none yet

  std::string text() const;
};

// GiB that this process has held at most (Linux: VmHWM).
double peak_process_gib();

}  // namespace qlora
