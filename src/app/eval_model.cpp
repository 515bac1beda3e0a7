#include "qlora/app/eval_model.h"

#include <chrono>

#include <fmt/format.h>

#include "qlora/app/adapter_runs.h"
#include "qlora/app/base_model.h"
#include "qlora/app/cost.h"
#include "qlora/app/eval_predictions.h"
#include "qlora/app/eval_tasks.h"
#include "qlora/app/partial_results.h"
#include "qlora/core/config.h"
#include "qlora/core/error.h"
#include "qlora/data/prepare.h"
#include "qlora/eval/ratings.h"
#include "qlora/eval/task_scores.h"
#include "qlora/nn/gemm.h"

namespace qlora {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

// One entry of the report.
struct PlannedRun {
  std::string name;
  std::string folder;          // the adapter's; empty for the bare base
  const LoraAdapter* adapter;  // nullptr for the bare base
  BaseSettings settings;
};

std::string name_among(const std::vector<PlannedRun>& runs, const fs::path& folder) {
  std::vector<std::string> taken;
  taken.reserve(runs.size());
  for (const PlannedRun& run : runs) taken.push_back(run.name);
  return name_of(folder, taken);
}

std::vector<PlannedRun> plan_runs(const EvalJob& job, const ModelConfig& model,
                                  const std::vector<LoraAdapter>& adapters) {
  const auto settings = [&](const LoraAdapter* adapter) { return settings_of(job.common, job.model, model, adapter); };
  std::vector<PlannedRun> runs;
  if (job.eval.baseline || adapters.empty())
    runs.push_back({"base", "", nullptr, settings(adapters.empty() ? nullptr : &adapters.front())});
  for (std::size_t i = 0; i < adapters.size(); ++i) {
    const std::string& folder = job.eval.adapter[i];
    runs.push_back({name_among(runs, folder), folder, &adapters[i], settings(&adapters[i])});
    if (!job.eval.baseline || same_base(runs[0].settings, runs.back().settings)) continue;
    throw UsageError(
        fmt::format("baseline: one base cannot be paired with {}, trained over a base {}, and {}, over one {}; set "
                    "load_in_4bit (or use_bnb_nested_quant: false) for both, or evaluate them apart",
                    job.eval.adapter[0], words_for(runs[0].settings), folder, words_for(runs.back().settings)));
  }
  return runs;
}

// What an unfinished evaluation must agree on to be gone on with: the keys that change answers. How answers are scored
// and where they go does not matter.
Json identity_of(const EvalJob& job) {
  Json keys = to_json(job);
  for (const char* free : {"output_dir", "device", "dataset", "eval_dataset", "val_size", "tables", "db_dir", "gold",
                           "predictions", "mmlu_dir", "blind", "ratings", "extract", "sql_timeout", "plug_value",
                           "per_row", "require", "batch_size", "dequantize_cache"}) {
    keys.erase(free);
  }
  return keys;
}

class ModelEvaluation {
 public:
  explicit ModelEvaluation(const EvalJob& job)
      : job_(job),
        model_(model_folder_of(job.model)),
        rows_(open_rows(job)),
        encoder_(model_, with_adapters_template(job.data, job.eval.adapter), datasets()),
        tasks_(job, model_, encoder_, rows_ ? &*rows_ : nullptr) {
    const ModelConfig config = read_model_config(model_);
    for (const std::string& folder : job.eval.adapter) adapters_.push_back(load_lora_adapter(folder, config));
    runs_ = plan_runs(job, config, adapters_);
    check_blind(job.eval, runs_.size());
    if (job.common.dry_run) return;
    fetch_weights(job.model, model_);
    base_with(runs_.front().settings);
  }

  int run() {
    if (job_.common.dry_run) return print_plan();
    PartialResults partial(job_.common.output_dir, identity());
    const auto start = Clock::now();
    for (const PlannedRun& run : runs_) {
      BaseModel& base = base_with(run.settings);
      if (run.adapter != nullptr) warn_of_another_base(*run.adapter, run.folder, base.folder());
      const auto decoder = run.adapter != nullptr ? base.decoder(*run.adapter, 0) : base.decoder(TrainingPlan{});
      results_.runs.push_back({run.name, run.folder, tasks_.run(run.name, *decoder, partial)});
    }
    if (find_base(results_) == nullptr) results_.base = runs_.front().name;
    results_.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    results_.output_tokens_per_second = tasks_.output_tokens_per_second();
    const int code = finish_eval(job_, std::move(results_));
    partial.remove();
    return code;
  }

 private:
  static std::optional<Dataset> open_rows(const EvalJob& job) {
    if (!needs_rows(job.eval.tasks)) return std::nullopt;
    const auto seed = static_cast<std::uint64_t>(job.common.seed);
    if (job.data.eval_dataset.empty()) return open_data(job.data, seed).eval;  // those that training leaves to it
    return Dataset(job.data.eval_dataset, Dataset::Role::kEvaluation, seed);
  }

  std::vector<const Dataset*> datasets() const {
    return rows_ ? std::vector<const Dataset*>{&*rows_} : std::vector<const Dataset*>{};
  }

  Json identity() const {
    Json identity = identity_of(job_);
    identity["data"] = tasks_.fingerprint();
    identity["base weights"] = base_->folder().weights_identity();
    Json adapters = Json::array();
    for (const std::string& folder : job_.eval.adapter) adapters.push_back(adapter_identity(folder));
    identity["adapter weights"] = adapters;
    return identity;
  }

  // The base held so. One is in memory at a time: adapters that were trained alike share it.
  BaseModel& base_with(const BaseSettings& settings) {
    if (base_ != nullptr && same_base(base_->settings(), settings)) return *base_;
    base_.reset();
    base_ = std::make_unique<BaseModel>(model_, settings);
    return *base_;
  }

  int print_plan() const {
    const ModelConfig config = read_model_config(model_);
    Json runs = Json::array();
    double operations = 0.0;
    for (const PlannedRun& run : runs_) {
      const auto store = planned_store(run.settings);
      const Decoder decoder(
          config, store, run.adapter != nullptr ? make_training_plan(run.adapter->config, config, 0) : TrainingPlan{});
      runs.push_back({{"name", run.name},
                      {"adapter", run.folder.empty() ? Json(nullptr) : Json(run.folder)},
                      {"load_in_4bit", run.settings.quantize},
                      {"bytes", bytes_of(decoder)}});
      const std::int64_t weights = missing_elements(*store) + decoder.parameters().size();
      operations += 2.0 * static_cast<double>(weights) * static_cast<double>(tasks_.tokens());
    }
    const BaseSettings& settings = runs_.front().settings;
    const auto speed = measured_speed(settings.device, settings.dtype);
    return print_eval_plan(job_, tasks_.size(), runs, speed ? Json(operations / *speed) : Json());
  }

  // On the device, at most.
  Json bytes_of(const Decoder& decoder) const {
    Json bytes = {{"weights", decoder.store().planned_bytes()},
                  {"dequantized", decoder.store().planned_scratch_bytes()},
                  {"adapter", decoder.parameters().bytes()},
                  {"evaluation", tasks_.bytes(decoder)}};
    std::int64_t total = gemm_workspace_bytes(decoder.device());
    for (const auto& [kind, count] : bytes.items()) total += count.get<std::int64_t>();
    bytes["workspaces"] = gemm_workspace_bytes(decoder.device());
    bytes["total"] = total;
    return bytes;
  }

  const EvalJob& job_;
  fs::path model_;
  std::optional<Dataset> rows_;
  RowEncoder encoder_;
  EvalTasks tasks_;
  std::vector<LoraAdapter> adapters_;
  std::vector<PlannedRun> runs_;  // in the report's order
  std::unique_ptr<BaseModel> base_;
  EvalResults results_;
};

}  // namespace

int run_eval_model(const EvalJob& job) {
  check_eval_options(job.eval);
  EvalJob own = job;
  if (!own.data.eval_dataset.empty()) own.data.dataset.clear();  // what training read says nothing here
  return ModelEvaluation(own).run();
}

}  // namespace qlora
