// The use case `qlora train`.
#include <cstdio>

#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include "qlora/app/base_model.h"
#include "qlora/app/commands.h"
#include "qlora/core/atomic_file.h"
#include "qlora/core/config.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/core/signal.h"
#include "qlora/data/prepare.h"
#include "qlora/report/model_card.h"
#include "qlora/train/trainer.h"
#include "qlora/weights/load.h"

namespace qlora {
namespace {

namespace fs = std::filesystem;

// The rows of a run: prepared now, or opened from prepared_dir.
struct TrainingData {
  PreparedSet train;
  std::optional<PreparedSet> eval;
  std::string fingerprint;
  std::optional<std::string> chat_template;  // what rows were rendered with
};

std::optional<std::string> template_of(const RowEncoder& encoder) {
  return encoder.chat_template() == nullptr ? std::nullopt : std::optional(encoder.chat_template()->source());
}

TrainingData open_training_data(const TrainJob& job, const fs::path& model) {
  const auto seed = static_cast<std::uint64_t>(job.common.seed);
  if (!job.data.prepared_dir.empty()) {
    OpenedData opened = open_prepared(job.data.prepared_dir);
    check_prepared(opened, model, job.data, seed);
    const std::string fingerprint =
        read_json(fs::path(job.data.prepared_dir) / "manifest.json").at("fingerprint").get<std::string>();
    const auto tmpl = load_chat_template(model);
    return {std::move(opened.train), std::move(opened.eval), fingerprint,
            tmpl ? std::optional(tmpl->source()) : std::nullopt};
  }
  const DataSources sources = open_data(job.data, seed);
  std::vector<const Dataset*> datasets{&sources.train};
  if (sources.eval) datasets.push_back(&*sources.eval);
  const RowEncoder encoder(model, job.data, datasets);
  PreparedData data = prepare_data(sources, encoder, read_model_limits(model), seed);
  for (const std::string& warning : data.warnings) log_warning("{}", warning);
  const RowCounts& counts = data.train.counts;
  log_info("{} of {} rows, {} tokens, {} of them labelled", counts.rows_kept, counts.rows_in, counts.tokens,
           counts.label_tokens);
  TrainingData result{std::move(data.train.rows), {}, data.fingerprint(), template_of(encoder)};
  if (data.eval) result.eval = std::move(data.eval->rows);
  return result;
}

// The keys that change numbers; where a run writes, how it logs and how often it saves do not.
Json identity_of(const TrainJob& job, const std::string& fingerprint) {
  Json keys = to_json(job);
  for (const char* free : {"output_dir", "log_level", "quiet", "json", "dry_run", "logging_steps", "save_steps",
                           "save_strategy", "save_total_limit", "resume_from_checkpoint", "report_to", "dataset",
                           "eval_dataset", "prepared_dir", "tables", "db_dir", "max_memory_gib", "device"}) {
    keys.erase(free);
  }
  keys["data"] = fingerprint;
  return keys;
}

// The adapter's config: that of the adapter it starts from, or a new one.
struct Start {
  LoraConfig config;
  std::optional<LoraAdapter> from;
};

Start choose_start(const TrainJob& job) {
  if (job.adapter.adapter_name_or_path.empty())
    return {make_lora_config(job.adapter, job.model.model_name_or_path), {}};
  LoraAdapter adapter = load_lora_adapter(job.adapter.adapter_name_or_path);
  LoraConfig config = adapter.config;
  config.base_model_name_or_path = job.model.model_name_or_path;
  config.lora_dropout = job.adapter.lora_dropout;
  return {std::move(config), std::move(adapter)};
}

std::string percent(std::int64_t part, std::int64_t whole) {
  return fmt::format("{:.2f} %", 100.0 * static_cast<double>(part) / static_cast<double>(whole));
}

class TrainRun {
 public:
  explicit TrainRun(const TrainJob& job)
      : job_(job),
        model_(model_folder_of(job.model)),
        output_(job.common.output_dir),
        data_(open_training_data(job, model_)),
        device_(choose_device(job.common.device)),
        base_(model_, {job.model.method == Method::kQlora, job.model.use_bnb_nested_quant, device_,
                       choose_dtype(job.model.dtype, device_)}) {}

  int run() {
    if (auto finished = finished_result()) return print(*finished);
    build_decoder();
    Trainer trainer(*decoder_, data_.train, data_.eval ? &*data_.eval : nullptr, trainer_settings());
    fs::create_directories(output_);
    remove_leftovers(output_);
    if (const auto checkpoint = checkpoint_to_resume()) trainer.resume(*checkpoint);
    write_file_atomically(output_ / "config.yaml", to_yaml(job_));
    const TrainingResult result = trainer.run();
    save_model(output_);
    write_file_atomically(output_ / "trainer_state.json", trainer.trainer_state().text());
    write_card(result);
    Json record = result.to_json(job_.common.output_dir);
    write_file_atomically(output_ / "train_results.json",
                          Json{{"result", record}, {"identity", identity()}}.dump(2) + "\n");
    return print(record);
  }

 private:
  Json identity() const { return identity_of(job_, data_.fingerprint); }

  std::optional<Json> finished_result() const {
    const fs::path path = output_ / "train_results.json";
    if (job_.train.resume_from_checkpoint != "auto" || !fs::exists(path)) return std::nullopt;
    const Json earlier = read_json(path);
    std::vector<std::string> changed;
    const Json now = identity();
    for (const auto& [key, value] : now.items()) {
      if (!earlier.at("identity").contains(key) || earlier.at("identity").at(key) != value) changed.push_back(key);
    }
    if (!changed.empty()) {
      throw UsageError(fmt::format(
          "{}: holds a finished run with another {}; name another output_dir, or resume_from_checkpoint: none",
          output_.string(), fmt::join(changed, ", ")));
    }
    log_info("{}: this run is finished already", output_.string());
    return earlier.at("result");
  }

  std::optional<fs::path> checkpoint_to_resume() const {
    const std::string& wanted = job_.train.resume_from_checkpoint;
    if (wanted == "none") {
      for (const auto& [step, folder] : list_checkpoints(output_)) fs::remove_all(folder);
      return std::nullopt;
    }
    return wanted == "auto" ? newest_valid_checkpoint(output_) : std::optional<fs::path>(wanted);
  }

  void build_decoder() {
    const auto seed = static_cast<std::uint64_t>(job_.common.seed);
    if (job_.model.method == Method::kFull) {
      TrainingPlan plan;
      plan.full = true;
      decoder_ = base_.decoder(plan);
    } else {
      Start start = choose_start(job_);
      lora_ = start.config;
      decoder_ = base_.decoder(make_training_plan(lora_, base_.config(), seed));
      decoder_->initialize_adapters(seed, job_.adapter.init_lora_weights == LoraInit::kGaussian);
      if (start.from) put_adapter(*start.from, *decoder_);
      lora_.target_modules.regex.clear();
      lora_.target_modules.names = target_names();
    }
    const std::int64_t trained = decoder_->parameters().size();
    log_info("training {} of {} parameters ({})", trained, total_parameters(), percent(trained, total_parameters()));
  }

  // What was targeted, by names that PEFT reads: the config's own list, or the linears that carry an adapter.
  std::vector<std::string> target_names() const {
    if (!job_.adapter.lora_target_modules.names.empty()) return job_.adapter.lora_target_modules.names;
    if (lora_.target_modules.all_linear()) return expand_all_linear(linear_names(base_.config()), "lm_head");
    std::vector<std::string> names;
    for (const AdapterPlace& place : decoder_->adapters()) names.push_back(place.linear);
    return names;
  }

  std::int64_t total_parameters() const {
    std::int64_t total = job_.model.method == Method::kFull ? 0 : decoder_->parameters().size();
    for (const std::string& name : base_.folder().names()) {
      if (decoder_->wants(name)) total += base_.folder().tensor(name).count();
    }
    return total;
  }

  TrainerSettings trainer_settings() {
    TrainerSettings settings;
    settings.options = job_.train;
    settings.batches = {job_.train.per_device_train_batch_size,
                        job_.train.gradient_accumulation_steps,
                        job_.data.packing,
                        job_.data.max_length.value_or(base_.config().max_positions),
                        job_.data.shuffle,
                        static_cast<std::uint64_t>(job_.common.seed)};
    settings.output = output_;
    settings.identity = identity();
    settings.save_model = [this](const fs::path& folder) { save_model(folder); };
    return settings;
  }

  void save_model(const fs::path& folder) {
    if (job_.model.method == Method::kFull) {
      save_full_model(folder);
    } else {
      save_adapter(*decoder_, lora_, base_.record(), folder);
    }
    copy_tokenizer(model_, folder, data_.chat_template);
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

  void write_card(const TrainingResult& result) const {
    ModelCard card;
    card.name = output_.filename().string();
    card.base_model = job_.model.model_name_or_path;
    card.method = job_.model.method == Method::kFull ? "full" : job_.model.method == Method::kLora ? "lora" : "qlora";
    for (const DatasetEntry& entry : job_.data.dataset) card.datasets.push_back(entry.path);
    card.training = {{"rows", std::to_string(data_.train.size())},
                     {"steps", std::to_string(result.steps)},
                     {"epochs", fmt::format("{:g}", job_.train.num_train_epochs)},
                     {"learning rate", fmt::format("{:g}", job_.train.learning_rate)},
                     {"training loss", fmt::format("{:.4f}", result.train_loss)}};
    if (result.eval_loss) card.results.emplace_back("evaluation loss", fmt::format("{:.4f}", *result.eval_loss));
    write_file_atomically(output_ / "README.md", model_card(card));
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
  at::Device device_;
  BaseModel base_;
  LoraConfig lora_;
  std::unique_ptr<Decoder> decoder_;
};

}  // namespace

int run_train(const TrainJob& job) {
  watch_signals();
  if (job.common.output_dir.empty()) throw UsageError("output_dir: name the folder that the adapter goes to");
  return TrainRun(job).run();
}

}  // namespace qlora
