// The use case `qlora train`.
#include <cstdio>
#include <cstdlib>

#include <ATen/Context.h>
#include <ATen/ops/empty.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "qlora/app/base_model.h"
#include "qlora/app/commands.h"
#include "qlora/app/train_evaluation.h"
#include "qlora/app/train_plan.h"
#include "qlora/app/train_report.h"
#include "qlora/app/training_data.h"
#include "qlora/core/atomic_file.h"
#include "qlora/core/config.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/core/schema.h"
#include "qlora/core/signal.h"
#include "qlora/eval/task_scores.h"
#include "qlora/formats/safetensors.h"
#include "qlora/report/model_card.h"
#include "qlora/train/trainer.h"
#include "qlora/weights/load.h"

namespace qlora {
namespace {

namespace fs = std::filesystem;

// Of the run's identity: the rows, and the base's weights, by what they are instead of where they lie.
constexpr const char* kRows = "dataset or eval_dataset";
constexpr const char* kBase = "model_name_or_path";

// The keys that change numbers; where a run writes, how it logs and how often it saves do not.
Json identity_of(const TrainJob& job, const BaseSettings& settings, const std::string& fingerprint) {
  Json keys = to_json(job);
  for (const char* free : {"output_dir",
                           "log_level",
                           "quiet",
                           "json",
                           "dry_run",
                           "logging_steps",
                           "save_steps",
                           "save_strategy",
                           "save_total_limit",
                           "resume_from_checkpoint",
                           "report_to",
                           "model_revision",
                           "dataset",
                           "eval_dataset",
                           "prepared_dir",
                           "tables",
                           "db_dir",
                           "mmlu_dir",
                           "max_memory_gib",
                           "dequantize_cache",
                           "device",
                           "gradient_checkpointing",
                           "per_device_eval_batch_size"}) {
    keys.erase(free);
  }
  if (job.train.eval_tasks.empty()) {  // what they are scored by then says nothing
    keys.erase("max_eval_samples");
    for (const KeySet* unused : {&keys_of<GenerateOptions>(), &keys_of<EvalOptions>()}) {
      for (const std::string& name : unused->names()) keys.erase(name);
    }
  }
  keys["dtype"] = dtype_name(settings.dtype);
  keys[kRows] = fingerprint;
  keys.erase(kBase);
  return keys;
}

std::string percent(std::int64_t part, std::int64_t whole) {
  return fmt::format("{:.2f} %", 100.0 * static_cast<double>(part) / static_cast<double>(whole));
}

// What the output folder of a finished run is known by.
constexpr const char* kResults = "train_results.json";

// Throws where an earlier run of `identity` is another one than this. A plan is made without weights to compare.
void check_identity(const fs::path& place, Json identity, const Json& own) {
  if (!own.contains(kBase)) identity.erase(kBase);
  const std::vector<std::string> changed = changed_keys(identity, own);
  if (changed.empty()) return;
  throw UsageError(fmt::format(
      "{}: was written by a run with another {}; name another output_dir, or start anew with resume_from_checkpoint: "
      "none",
      place.string(), fmt::join(changed, ", ")));
}

// A config that is shared with adapter runs may say them; whoever reads the log learns that they do nothing here.
void warn_of_unused_keys(const TrainJob& job) {
  if (job.model.method != Method::kFull) return;
  std::vector<std::string> unused;
  for (const std::string& name : keys_of<AdapterOptions>().names()) {
    if (job.common.given.contains(name)) unused.push_back(name);
  }
  if (!unused.empty()) log_warning("method full trains no adapter; without effect: {}", fmt::join(unused, ", "));
}

// What ails the model that a finished run left; nullopt: nothing.
std::optional<std::string> result_problem(const TrainJob& job, const fs::path& output) {
  try {
    if (job.model.method == Method::kFull) {
      const ModelFolder folder(output);
    } else {
      const SafetensorsFile file(output / kAdapterWeightFile);
    }
    return std::nullopt;
  } catch (const DataError& error) {
    return error.what();
  }
}

// What earlier calls left of this run in its output folder.
struct EarlierRun {
  std::optional<Json> result;          // it is finished
  std::optional<fs::path> checkpoint;  // it goes on from here
};

std::optional<Json> finished_result(const TrainJob& job, const Json& identity) {
  const fs::path output = job.common.output_dir;
  if (job.train.resume_from_checkpoint != kAutoResume || !fs::exists(output / kResults)) return std::nullopt;
  const Json earlier = read_json(output / kResults);
  check_identity(output, earlier.at("identity"), identity);
  if (const auto problem = result_problem(job, output)) {
    log_warning("this run was finished, but what it trained is not whole: {}; going on from its last checkpoint",
                *problem);
    return std::nullopt;
  }
  return earlier.at("result");
}

std::optional<fs::path> checkpoint_to_resume(const TrainJob& job, const Json& identity) {
  const std::string& wanted = job.train.resume_from_checkpoint;
  if (wanted == kNoResume) return std::nullopt;
  std::optional<fs::path> checkpoint =
      wanted == kAutoResume ? newest_valid_checkpoint(job.common.output_dir) : std::optional<fs::path>(wanted);
  if (checkpoint) check_identity(*checkpoint, load_checkpoint(*checkpoint).run.at("identity"), identity);
  return checkpoint;
}

// Throws where the output folder cannot be this run's.
EarlierRun earlier_run(const TrainJob& job, const Json& identity) {
  require_folder(job.common.output_dir);
  if (auto result = finished_result(job, identity)) return {std::move(result), std::nullopt};
  return {std::nullopt, checkpoint_to_resume(job, identity)};
}

// What is read of a model where it is there goes before the model in `staged` comes without it: weights in one file,
// which would hide those in shards, and templates.
void remove_other_model(const fs::path& output, const fs::path& staged) {
  const std::vector<fs::directory_entry> entries(fs::directory_iterator(output), fs::directory_iterator{});
  for (const fs::directory_entry& entry : entries) {
    const fs::path name = entry.path().filename();
    const bool weights = name.string().starts_with("model") && name.string().find(".safetensors") != std::string::npos;
    const bool templates = name == "chat_template.jinja" || name == kMoreTemplates;
    if ((weights || templates) && !fs::exists(staged / name)) fs::remove_all(output / name);
  }
}

class TrainRun {
 public:
  TrainRun(const TrainJob& job, fs::path model, AdapterStart start, TrainingData data)
      : job_(job),
        model_(std::move(model)),
        output_(job.common.output_dir),
        data_(std::move(data)),
        base_(model_, base_settings(job, read_model_config(model_))),
        start_(std::move(start)),
        identity_(identity_of(job, base_.settings(), data_.fingerprint)) {
    identity_[kBase] = base_.folder().weights_identity();
    // Before the weights: it forks the workers of the SQL sandbox.
    if (!job.train.eval_tasks.empty()) evaluation_.emplace(job, model_, data_);
  }

  int run() {
    const EarlierRun earlier = earlier_run(job_, identity_);
    if (earlier.result) {
      log_info("{}: this run is finished already", output_.string());
      return print(*earlier.result);
    }
    warn_of_unused_keys(job_);
    check_memory(job_, model_, start_, data_);
    build_decoder();
    Trainer trainer(*decoder_, data_.train, data_.eval ? &*data_.eval : nullptr, trainer_settings());
    if (earlier.checkpoint) trainer.resume(*earlier.checkpoint);
    begin(trainer.steps_done());
    const TrainingResult result = trainer.run(earlier_stands());
    const Json record = result.to_json(job_.common.output_dir);
    finish(trainer, result, record);
    return print(record);
  }

 private:
  // Only from here on anything is written.
  void begin(std::int64_t steps_done) {
    fs::create_directories(output_);
    lock_.emplace(output_);
    remove_leftovers(output_);
    for (const auto& [step, folder] : list_checkpoints(output_)) {
      if (step > steps_done) superseded_.push_back(folder);
    }
    if (!earlier_stands()) write_config();
  }

  bool earlier_stands() const { return !superseded_.empty() || fs::exists(output_ / kResults); }

  void write_config() const { write_file_atomically(output_ / "config.yaml", to_yaml(job_)); }

  // Once this run has something of its own on the disk, what an earlier one left beyond the step that was gone on from
  // goes. Until then a full disk leaves it whole.
  void supersede(std::int64_t step) {
    if (std::exchange(has_superseded_, true)) return;
    fs::remove(output_ / kResults);
    MetricsFile::take_place_of_earlier(output_);
    for (const fs::path& folder : superseded_) {
      if (folder.filename() != fmt::format("checkpoint-{}", step)) fs::remove_all(folder);
    }
    write_config();
  }

  // Everything is written aside first, so that a full disk leaves what was there.
  void finish(const Trainer& trainer, const TrainingResult& result, const Json& record) {
    AtomicFolder folder(output_ / "final");
    save_model(folder.temporary());
    write_file_atomically(folder.temporary() / "trainer_state.json", trainer.trainer_state().text());
    write_card(folder.temporary(), result);
    write_file_atomically(folder.temporary() / "report.html",
                          train_report(card_name(), facts(result), read_metrics(metrics_path(output_))));
    write_file_atomically(folder.temporary() / kResults,
                          Json{{"result", record}, {"identity", identity_}}.dump(2) + "\n");
    supersede(result.steps);
    remove_other_model(output_, folder.temporary());
    folder.move_out(kResults);
  }

  void build_decoder() {
    decoder_ = base_.decoder(training_plan(job_, start_.config, base_.config()));
    if (job_.model.method != Method::kFull) {
      lora_ = start_.config;
      decoder_->initialize_adapters(static_cast<std::uint64_t>(job_.common.seed),
                                    job_.adapter.init_lora_weights == LoraInit::kGaussian);
      if (start_.from) put_adapter(*start_.from, *decoder_);
      lora_.target_modules = {target_names(), ""};
    }
    const std::int64_t trained = decoder_->parameters().size();
    log_info("training {} of {} parameters ({})", trained, total_parameters(), percent(trained, total_parameters()));
  }

  // What was targeted, by names that PEFT reads: the config's own list, or the linears that carry an adapter.
  std::vector<std::string> target_names() const {
    if (!lora_.target_modules.names.empty()) return lora_.target_modules.names;
    if (lora_.target_modules.all_linear()) return expand_all_linear(linear_names(base_.config()), "lm_head");
    std::vector<std::string> names;
    for (const AdapterPlace& place : decoder_->adapters()) names.push_back(place.linear);
    return names;
  }

  std::int64_t total_parameters() const {
    std::int64_t total = decoder_->parameters().size();
    for (const std::string& name : base_.folder().names()) {
      if (decoder_->store().has(name)) total += element_count(decoder_->store().member(name).shape).value_or(0);
    }
    return total;
  }

  TrainerSettings trainer_settings() {
    TrainerSettings settings;
    settings.options = job_.train;
    settings.batches = batch_options(job_, base_.config());
    settings.output = output_;
    settings.identity = identity_;
    settings.save_model = [this](const fs::path& folder) { save_model(folder); };
    settings.on_saved = [this](std::int64_t step) { supersede(step); };
    settings.options.greater_is_better = greater_is_better();
    if (evaluation_) {
      settings.on_eval = [this] { return evaluation_->scores(*decoder_); };
      settings.on_eval_bytes = evaluation_->bytes(*decoder_);
    }
    return settings;
  }

  bool greater_is_better() const {
    const auto score = task_score_of(job_.train.metric_for_best_model, job_.train.eval_tasks);
    return job_.train.greater_is_better.value_or(score && !lower_is_better(score->score));
  }

  void save_model(const fs::path& folder) {
    if (job_.model.method == Method::kFull) {
      save_full_model(folder);
    } else {
      save_adapter(*decoder_, lora_, base_.record(), folder);
    }
    copy_tokenizer(model_, folder, data_.format);
  }

  void save_full_model(const fs::path& folder) {
    const ParameterSet& parameters = decoder_->parameters();
    const ElementType type = to_host_tensor(at::empty({0}, decoder_->dtype())).type;
    std::vector<TensorSpec> specs;
    for (const ParameterInfo& info : parameters.infos()) specs.push_back({info.name, type, info.shape});
    ModelFolderWriter writer(folder, specs);
    for (const ParameterInfo& info : parameters.infos()) {
      const at::Tensor value =
          parameters.value(*parameters.find(info.name)).to(at::kCPU, decoder_->dtype()).contiguous();
      writer.append(info.name, to_host_tensor(value).bytes);
    }
    writer.commit();
    Json config = base_.folder().config();
    config.erase("torch_dtype");
    config["dtype"] = base_.record().dtype;
    write_file_atomically(folder / "config.json", config.dump(2) + "\n");
  }

  using Facts = std::vector<std::pair<std::string, std::string>>;

  std::string card_name() const { return fs::absolute(output_ / ".").parent_path().filename().string(); }

  Facts facts(const TrainingResult& result) const {
    Facts facts = {{"rows", std::to_string(data_.train.size())},
                   {"steps", std::to_string(result.steps)},
                   {"epochs", fmt::format("{:.3g}", result.epochs)},
                   {"learning rate", fmt::format("{:g}", job_.train.learning_rate)},
                   {"training loss", fmt::format("{:.4f}", result.train_loss)}};
    if (result.kept_step != result.steps) facts.emplace_back("best step, kept", std::to_string(result.kept_step));
    if (result.eval_loss) facts.emplace_back("evaluation loss", fmt::format("{:.4f}", *result.eval_loss));
    return facts;
  }

  void write_card(const fs::path& folder, const TrainingResult& result) const {
    ModelCard card;
    card.name = card_name();
    card.base_model = job_.model.model_name_or_path;
    card.method = job_.model.method == Method::kFull ? "full" : job_.model.method == Method::kLora ? "lora" : "qlora";
    for (const DatasetEntry& entry : job_.data.dataset) card.datasets.push_back(entry.path);
    card.training = facts(result);
    if (result.eval_loss) card.results.push_back(card.training.back()), card.training.pop_back();
    write_file_atomically(folder / "README.md", model_card(card));
  }

  int print(const Json& result) const {
    if (job_.common.json) {
      std::printf("%s\n", result.dump().c_str());
      return 0;
    }
    std::printf("steps       %ld\ntrain_loss  %.6f\n", result.at("steps").get<long>(),
                result.at("train_loss").get<double>());
    if (!result.at("eval_loss").is_null()) std::printf("eval_loss   %.6f\n", result.at("eval_loss").get<double>());
    std::printf("tokens      %ld with loss, %ld in all, %.0f/s\n", result.at("tokens").get<long>(),
                result.at("input_tokens").get<long>(), result.at("tokens_per_second").get<double>());
    std::printf("seconds     %.1f\nwritten to  %s\n", result.at("seconds").get<double>(),
                job_.common.output_dir.c_str());
    return 0;
  }

  const TrainJob& job_;
  fs::path model_, output_;
  TrainingData data_;
  BaseModel base_;
  AdapterStart start_;
  Json identity_;
  std::optional<TrainingEvaluation> evaluation_;
  std::optional<FolderLock> lock_;
  LoraConfig lora_;
  std::unique_ptr<Decoder> decoder_;
  std::vector<fs::path> superseded_;  // checkpoints of an earlier run, which the first save of this one removes
  bool has_superseded_ = false;
};

// Before the first use of CUDA. What at::empty gives is written before it is read, so it need not be filled.
void use_deterministic_kernels() {
  setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
  at::globalContext().setDeterministicFillUninitializedMemory(false);
}

int show_plan(const TrainJob& job, const fs::path& model, const AdapterStart& start, const TrainingData& data) {
  if (!job.common.output_dir.empty()) {
    earlier_run(job, identity_of(job, base_settings(job, read_model_config(model)), data.fingerprint));
  }
  warn_of_unused_keys(job);
  const Json plan = plan_training(job, model, start, data);
  std::printf("%s", job.common.json ? (plan.dump() + "\n").c_str() : plan_text(plan).c_str());
  return 0;
}

}  // namespace

int run_train(const TrainJob& given) {
  watch_signals();
  if (given.train.deterministic) use_deterministic_kernels();
  TrainJob job = given;
  const fs::path model = model_folder_of(job.model);
  if (fs::exists(job.common.output_dir) && fs::equivalent(job.common.output_dir, model)) {
    throw UsageError(
        fmt::format("output_dir: {} is the model's own folder, which training would write over; name another",
                    job.common.output_dir));
  }
  AdapterStart start = resolve_adapter(job, model);
  TrainingData data = open_training_data(job, model);
  if (job.common.dry_run) return show_plan(job, model, start, data);
  fetch_weights(job.model, model);
  return TrainRun(job, model, std::move(start), std::move(data)).run();
}

}  // namespace qlora
