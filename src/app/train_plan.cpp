#include "qlora/app/train_plan.h"

#include <algorithm>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "qlora/app/base_model.h"
#include "qlora/app/cost.h"
#include "qlora/app/train_evaluation.h"
#include "qlora/core/error.h"
#include "qlora/train/memory.h"
#include "qlora/train/trainer.h"
#include "qlora/weights/load.h"

namespace qlora {
namespace {

namespace fs = std::filesystem;

// An adapter that is trained on decides what is left open; a key that says otherwise contradicts.
template <class T>
void take_over(const char* key, const CommonOptions& common, T& option, const T& own) {
  if (common.given.contains(key) && option != own) {
    throw UsageError(fmt::format("{}: {} contradicts the adapter of adapter_name_or_path, which has {}; leave it out",
                                 key, option, own));
  }
  option = own;
}

// The same for what is too long to be quoted.
template <class T>
void take_over_all(const char* key, const CommonOptions& common, T& option, const T& own) {
  if (common.given.contains(key) && option != own)
    throw UsageError(fmt::format("{}: contradicts the adapter of adapter_name_or_path; leave it out", key));
  option = own;
}

// Targets count as the linears that they name: "all-linear" and its list are the same.
void check_targets(const TrainJob& job, const LoraConfig& adapter, const ModelConfig& model) {
  if (!job.common.given.contains("lora_target_modules")) return;
  LoraConfig wanted = adapter;
  wanted.target_modules = job.adapter.lora_target_modules;
  wanted.exclude_modules = {};
  const AdaptableModules modules = adaptable_modules(model);
  if (lora_targets(wanted, modules.all, modules.apart) != lora_targets(adapter, modules.all, modules.apart)) {
    throw UsageError(
        "lora_target_modules: contradicts the adapter of adapter_name_or_path, which sits on other linears; leave it "
        "out");
  }
}

// Adapters on experts have no dropout; where none was asked for there is none.
void settle_dropout(TrainJob& job, const ModelConfig& model, LoraConfig& config) {
  LoraConfig without = config;
  if (!job.common.given.contains("lora_dropout")) without.lora_dropout = 0.0;
  if (!check_expert_adapters(without, model)) return;
  job.adapter.lora_dropout = config.lora_dropout = without.lora_dropout;
}

// A name that no module has is a slip.
void check_target_names(const LoraConfig& config, const ModelConfig& model) {
  const AdaptableModules modules = adaptable_modules(model);
  for (const std::string& name : config.target_modules.names) {
    LoraConfig alone;
    alone.target_modules.names = {name};
    if (!lora_targets(alone, modules.all, modules.apart).empty()) continue;
    throw UsageError(fmt::format(
        "lora_target_modules: '{}' is no module of this model that carries an adapter; there "
        "are: {}, {}",
        name, fmt::join(expand_all_linear(linear_names(model), "lm_head"), ", "), fmt::join(modules.apart, ", ")));
  }
}

// Nor may a pattern or a layer mean nothing.
void check_patterns(const LoraConfig& config, const ModelConfig& model) {
  const AdaptableModules modules = adaptable_modules(model);
  const std::vector<std::string> targets = lora_targets(config, modules.all, modules.apart);
  const auto check = [&](const char* key, const auto& patterns) {
    for (const auto& [pattern, value] : patterns) {
      const auto matches = [&key = pattern](const std::string& module) { return pattern_matches(key, module); };
      if (std::any_of(targets.begin(), targets.end(), matches)) continue;
      throw UsageError(fmt::format("{}: '{}' matches no module that carries an adapter", key, pattern));
    }
  };
  check("rank_pattern", config.rank_pattern);
  check("alpha_pattern", config.alpha_pattern);
  for (const std::int64_t layer : config.layers_to_transform) {
    if (layer < model.layers) continue;
    throw UsageError(fmt::format("layers_to_transform: there is no layer {}; the last is {}", layer, model.layers - 1));
  }
}

// Forward and the gradient of inputs take two operations a weight and token each, the gradient of weights two more. Of
// experts a token goes through few.
double operations_per_token(const Decoder& decoder) {
  const ModelConfig& c = decoder.config();
  const std::vector<std::string>& experts = decoder.modules().experts;
  const std::set<std::string> known(experts.begin(), experts.end());
  const auto used = [&](const std::string& name, std::int64_t size) {
    const bool in_expert = known.contains(name.substr(0, std::min(name.rfind(".weight"), name.find(".lora_"))));
    const double share =
        static_cast<double>(c.experts_per_token) / static_cast<double>(std::max<std::int64_t>(c.experts, 1));
    return static_cast<double>(size) * (in_expert ? share : 1.0);
  };
  double operations = 0.0;
  for (const std::string& name : decoder.store().missing())
    operations += 4.0 * used(name, element_count(decoder.store().member(name).shape).value_or(0));
  for (const ParameterInfo& info : decoder.parameters().infos()) operations += 6.0 * used(info.name, info.size());
  return operations;
}

std::string description_of(const std::vector<Keep>& keep) {
  const auto count = [&](Keep policy) { return std::count(keep.begin(), keep.end(), policy); };
  const std::int64_t cheap = count(Keep::kExpensive), on_host = count(Keep::kInputOnHost);
  const std::int64_t all = count(Keep::kInputOnly) + on_host;
  std::vector<std::string> parts;
  if (cheap > 0) parts.push_back(fmt::format("norms and activations of {} blocks", cheap));
  if (all > 0) parts.push_back(fmt::format("all but the inputs of {} blocks", all));
  if (on_host > 0) parts.push_back(fmt::format("{} of these inputs wait on the host", on_host));
  return parts.empty() ? "off" : fmt::format("{}", fmt::join(parts, ", "));
}

class Planner {
 public:
  Planner(const TrainJob& job, const fs::path& model, const AdapterStart& start, const TrainingData& data)
      : job_(job), model_(model), data_(data), config_(read_model_config(model)) {
    settings_ = base_settings(job, config_);
    decoder_ = std::make_unique<Decoder>(config_, planned_store(settings_), training_plan(job, start.config, config_));
  }

  void check_memory() { run_plan(0); }

  Json plan() {
    const std::int64_t per_epoch = steps_per_epoch();
    const std::int64_t steps = total_steps(job_.train, per_epoch);
    const std::int64_t frozen = missing_elements(decoder_->store());
    const std::int64_t trained = decoder_->parameters().size();
    const double tokens =
        static_cast<double>(data_.train.tokens()) * static_cast<double>(steps) / static_cast<double>(per_epoch);
    Json plan{{"rows", data_.train.size()},
              {"eval_rows", data_.eval ? data_.eval->size() : 0},
              {"steps", steps},
              {"steps_per_epoch", per_epoch},
              {"tokens_per_epoch", data_.train.tokens()},
              {"parameters", frozen + trained},
              {"trainable_parameters", trained}};
    std::int64_t evaluation = 0;
    if (!job_.train.eval_tasks.empty()) evaluation = TrainingEvaluation(job_, model_, data_).bytes(*decoder_);
    const RunPlan run = run_plan(evaluation);
    const PackedBatch& longest = run.largest.front().batch;
    plan["longest_batch"] = {
        {"rows", longest.sequences()}, {"tokens", longest.tokens()}, {"labels", longest.targets.size()}};
    plan["merged_micro_batches"] = run.merged;
    plan["gradient_checkpointing"] = description_of(run.keep);
    plan["bytes"] = run.bytes.to_json();
    plan["host_bytes"] = run.host.to_json();
    const auto speed = measured_speed(settings_.device, settings_.dtype);
    plan["estimated_seconds"] = speed ? Json(tokens * operations_per_token(*decoder_) / *speed) : Json();
    return plan;
  }

 private:
  std::int64_t steps_per_epoch() const { return Batcher(data_.train, batch_options(job_, config_)).steps_per_epoch(); }

  // Throws where the memory does not suffice. `evaluation`: bytes that eval_tasks take.
  RunPlan run_plan(std::int64_t evaluation) const {
    return plan_run(*decoder_, job_.train, data_.train, batch_options(job_, config_),
                    total_steps(job_.train, steps_per_epoch()), evaluation);
  }

  const TrainJob& job_;
  fs::path model_;
  const TrainingData& data_;
  ModelConfig config_;
  BaseSettings settings_;
  std::unique_ptr<Decoder> decoder_;
};

}  // namespace

TrainingPlan training_plan(const TrainJob& job, const LoraConfig& config, const ModelConfig& model) {
  const auto seed = static_cast<std::uint64_t>(job.common.seed);
  TrainingPlan plan;
  if (job.model.method == Method::kFull) {
    plan.full = true;
    plan.seed = seed;
  } else {
    plan = make_training_plan(config, model, seed);
  }
  plan.embedding_noise = job.train.neftune_noise_alpha.value_or(0.0);
  return plan;
}

AdapterStart resolve_adapter(TrainJob& job, const fs::path& model) {
  AdapterOptions& options = job.adapter;
  const std::string revision = job.model.model_revision == "main" ? "" : job.model.model_revision;
  if (options.adapter_name_or_path.empty()) {
    LoraConfig config = make_lora_config(options, job.model.model_name_or_path);
    config.revision = revision;
    if (job.model.method != Method::kFull) {
      const ModelConfig base = read_model_config(model);
      check_target_names(config, base);
      check_patterns(config, base);
      make_training_plan(config, base, 0);  // refuses what this model has not
      settle_dropout(job, base, config);
    }
    return {std::move(config), {}};
  }
  if (job.model.method == Method::kFull) {
    throw UsageError("adapter_name_or_path: method full trains no adapter; merge it into the base first");
  }
  LoraAdapter adapter = load_lora_adapter(options.adapter_name_or_path, read_model_config(model));
  if (adapter.fused_experts) {
    throw UsageError(fmt::format(
        "adapter_name_or_path: {} has one adapter for all experts of a layer (target_parameters), which is not trained "
        "on yet; merge it into the base first",
        options.adapter_name_or_path));
  }
  LoraConfig config = adapter.config;
  take_over("lora_r", job.common, options.lora_r, config.r);
  take_over("lora_alpha", job.common, options.lora_alpha, config.lora_alpha);
  take_over("use_rslora", job.common, options.use_rslora, config.use_rslora);
  take_over("use_dora", job.common, options.use_dora, config.use_dora);
  take_over_all("modules_to_save", job.common, options.modules_to_save, config.modules_to_save);
  take_over_all("rank_pattern", job.common, options.rank_pattern, config.rank_pattern);
  take_over_all("alpha_pattern", job.common, options.alpha_pattern, config.alpha_pattern);
  take_over_all("layers_to_transform", job.common, options.layers_to_transform, config.layers_to_transform);
  check_targets(job, config, read_model_config(model));
  options.lora_target_modules = config.target_modules;
  config.base_model_name_or_path = job.model.model_name_or_path;
  config.revision = revision;
  config.lora_dropout = options.lora_dropout;
  settle_dropout(job, read_model_config(model), config);
  return {std::move(config), std::move(adapter)};
}

BatchOptions batch_options(const TrainJob& job, const ModelConfig& model) {
  return {job.train.per_device_train_batch_size,
          job.train.gradient_accumulation_steps,
          job.data.packing,
          job.data.max_length.value_or(model.longest_row()),
          job.data.shuffle,
          static_cast<std::uint64_t>(job.common.seed)};
}

void check_memory(const TrainJob& job, const fs::path& model, const AdapterStart& start, const TrainingData& data) {
  if (job.train.max_memory_gib) Planner(job, model, start, data).check_memory();
}

Json plan_training(const TrainJob& job, const fs::path& model, const AdapterStart& start, const TrainingData& data) {
  return Planner(job, model, start, data).plan();
}

std::string plan_text(const Json& plan) {
  const Json& longest = plan.at("longest_batch");
  std::string text = fmt::format(
      "rows        {}, evaluation {}\nsteps       {}, {} an epoch of {} tokens\nlongest     {} rows, {} tokens\n"
      "trained     {} of {} parameters\nrecomputed  {}\n",
      plan.at("rows").dump(), plan.at("eval_rows").dump(), plan.at("steps").dump(), plan.at("steps_per_epoch").dump(),
      plan.at("tokens_per_epoch").dump(), longest.at("rows").dump(), longest.at("tokens").dump(),
      plan.at("trainable_parameters").dump(), plan.at("parameters").dump(),
      plan.at("gradient_checkpointing").get<std::string>());
  text += bytes_text(plan.at("bytes"));
  const Json& host = plan.at("host_bytes");
  const bool moves = std::any_of(host.begin(), host.end(), [](const Json& bytes) { return bytes != 0; });
  if (moves) text += "in pinned host memory\n" + bytes_text(host);
  return text + time_text(plan.at("estimated_seconds")) + "nothing was written\n";
}

}  // namespace qlora
