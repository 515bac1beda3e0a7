#include "qlora/train/metrics.h"

#include <fmt/format.h>

#include "qlora/core/atomic_file.h"
#include "qlora/core/error.h"

namespace qlora {
namespace {

namespace fs = std::filesystem;

constexpr const char* kMetrics = "metrics.jsonl";
constexpr const char* kEvents = "runs";
// Names that remove_leftovers() knows, for what a killed run leaves.
constexpr const char* kMetricsAside = "tmp-metrics.jsonl.qlora-0";
constexpr const char* kEventsAside = "tmp-runs.qlora-0";

// The tags are transformers': train/loss, eval/loss.
TensorBoardFile::Scalars scalars_of(const Json& line) {
  TensorBoardFile::Scalars scalars;
  for (const auto& [name, value] : line.items()) {
    if (name == "step" || !value.is_number()) continue;
    const bool evaluation = name.starts_with("eval_");
    scalars.emplace_back(evaluation ? "eval/" + name.substr(5) : "train/" + name, value.get<double>());
  }
  return scalars;
}

}  // namespace

Json StepMetrics::to_json() const {
  return {{"step", step},
          {"epoch", epoch},
          {"loss", loss},
          {"grad_norm", grad_norm},
          {"learning_rate", learning_rate},
          {"tokens", tokens},
          {"input_tokens", input_tokens},
          {"tokens_per_second", seconds > 0.0 ? static_cast<double>(input_tokens) / seconds : 0.0},
          {"step_ms", seconds * 1e3},
          {"memory_allocated_gib", memory_allocated_gib},
          {"memory_used_gib", memory_used_gib}};
}

std::vector<Json> read_metrics(const fs::path& path) {
  std::vector<Json> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (json.is_object()) lines.push_back(std::move(json));
  }
  return lines;
}

fs::path metrics_path(const fs::path& folder) {
  return fs::exists(folder / kMetricsAside) ? folder / kMetricsAside : folder / kMetrics;
}

MetricsFile::MetricsFile(const fs::path& folder, std::int64_t keep_steps, bool tensorboard, bool evaluates_again,
                         bool aside)
    : path_(folder / (aside ? kMetricsAside : kMetrics)) {
  const fs::path runs = folder / (aside ? kEventsAside : kEvents);
  fs::remove_all(runs);
  if (tensorboard) events_.emplace(runs);
  std::string kept;
  for (const Json& line : read_metrics(folder / kMetrics)) {
    const auto step = line.value("step", keep_steps + 1);
    if (step > keep_steps || (evaluates_again && step == keep_steps && line.contains("eval_loss"))) continue;
    kept += line.dump() + "\n";
    if (events_) events_->write(line.at("step").get<std::int64_t>(), scalars_of(line), wall_clock());
  }
  write_file_atomically(path_, kept);
  file_.open(path_, std::ios::app);
}

MetricsFile::~MetricsFile() {
  if (path_.filename() != kMetricsAside) return;
  std::error_code ignored;
  fs::remove(path_, ignored);
  fs::remove_all(path_.parent_path() / kEventsAside, ignored);
}

void MetricsFile::take_place_of_earlier(const fs::path& folder) {
  if (!fs::exists(folder / kMetricsAside)) return;
  fs::remove_all(folder / kEvents);
  if (fs::exists(folder / kEventsAside)) fs::rename(folder / kEventsAside, folder / kEvents);
  fs::rename(folder / kMetricsAside, folder / kMetrics);
}

void MetricsFile::write(const Json& line) {
  file_ << line.dump() << '\n' << std::flush;
  if (!file_) throw RuntimeFailure(fmt::format("{}: cannot be written: is the disk full?", path_.string()));
  if (events_) events_->write(line.at("step").get<std::int64_t>(), scalars_of(line), wall_clock());
}

std::string TrainerState::text() const {
  const nlohmann::json sorted{{"best_global_step", best_global_step},
                              {"best_metric", best_metric},
                              {"best_model_checkpoint", best_model_checkpoint},
                              {"epoch", epoch},
                              {"eval_steps", eval_steps},
                              {"global_step", global_step},
                              {"is_hyper_param_search", false},
                              {"is_local_process_zero", true},
                              {"is_world_process_zero", true},
                              {"log_history", nlohmann::json::parse(log_history.dump())},
                              {"logging_steps", logging_steps},
                              {"max_steps", max_steps},
                              {"num_input_tokens_seen", input_tokens},
                              {"num_train_epochs", num_train_epochs},
                              {"save_steps", save_steps},
                              {"stateful_callbacks", nlohmann::json::object()},
                              {"total_flos", 0.0},
                              {"train_batch_size", train_batch_size},
                              {"trial_name", nullptr},
                              {"trial_params", nullptr}};
  return sorted.dump(2) + "\n";
}

double peak_process_gib() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::stod(line.substr(6)) / (1024.0 * 1024.0);
  }
  return 0.0;
}

}  // namespace qlora
