#include "qlora/app/eval_model.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include <fmt/format.h>

#include "qlora/app/base_model.h"
#include "qlora/app/eval_predictions.h"
#include "qlora/core/atomic_file.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/core/progress.h"
#include "qlora/core/signal.h"
#include "qlora/data/prepare.h"
#include "qlora/generate/generator.h"
#include "qlora/train/evaluate.h"
#include "qlora/weights/load.h"

namespace qlora {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

bool wants(const EvalJob& job, const char* task) {
  return std::find(job.eval.tasks.begin(), job.eval.tasks.end(), task) != job.eval.tasks.end();
}

// The base's settings: as the command says, else as the first adapter was trained, else dense.
BaseSettings settings_of(const EvalJob& job, const std::vector<LoraAdapter>& adapters) {
  BaseSettings settings;
  settings.device = choose_device(job.common.device);
  settings.dtype = choose_dtype(job.model.dtype, settings.device);
  settings.dequantize_cache_bytes = dequantize_cache_bytes(job.model, settings.device);
  const AdapterRecord* record = adapters.empty() || !adapters.front().record ? nullptr : &*adapters.front().record;
  settings.quantize = job.model.load_in_4bit.value_or(record != nullptr && record->quant_type == "nf4");
  settings.nested = record != nullptr ? record->nested : job.model.use_bnb_nested_quant;
  return settings;
}

// A row that an answer is generated for.
struct Prompt {
  Json id;
  std::string text;
  std::string gold;  // the last answer, where the row has one
  std::vector<std::int32_t> ids;
};

std::string last_answer(const Example& example) {
  if (example.kind != Example::Kind::kChat) return example.answer;
  if (example.messages.empty() || example.messages.back().value("role", "") != "assistant") return "";
  const Json& content = example.messages.back().at("content");
  return content.is_string() ? content.get<std::string>() : content.dump();
}

std::vector<Prompt> render_prompts(const Dataset& dataset, const RowEncoder& encoder, const EvalOptions& options) {
  std::vector<Prompt> prompts;
  const auto begin = std::min(static_cast<std::size_t>(options.offset), dataset.size());
  const std::size_t end =
      options.limit ? std::min(dataset.size(), begin + static_cast<std::size_t>(*options.limit)) : dataset.size();
  for (std::size_t i = begin; i < end; ++i) {
    const Example example = encoder.example(dataset, i);
    const Rendered rendered = encoder.render(example);
    prompts.push_back(
        {example.id, rendered.prompt.value_or(""), last_answer(example), encoder.encode_prompt(rendered)});
  }
  return prompts;
}

class ModelEvaluation {
 public:
  explicit ModelEvaluation(const EvalJob& job)
      : job_(job),
        model_(model_folder_of(job.model)),
        dataset_(open_rows(job)),
        encoder_(model_, job.data, {&dataset_}) {
    if (wants(job, "spider")) {
      const SpiderPlaces places = find_spider_places(job);
      questions_ = read_spider_questions(job);
      // Before the weights: the scorer forks its workers while the process is small.
      if (!job.common.dry_run)
        scorer_ = std::make_unique<SpiderScorer>(places.tables, places.db_dir, sandbox_limits(job.eval));
    }
    for (const std::string& folder : job.eval.adapter) adapters_.push_back(load_lora_adapter(folder));
    const BaseSettings settings = settings_of(job, adapters_);
    if (job.common.dry_run) {
      const fs::path config = model_ / "config.json";
      parse_model_config(read_json(config), config.string());
      return;
    }
    fetch_weights(job.model, model_);
    base_ = std::make_unique<BaseModel>(model_, settings);
  }

  int run() {
    if (wants(job_, "spider") || wants(job_, "generate")) {
      prompts_ = render_prompts(dataset_, encoder_, job_.eval);
      for (std::size_t i = 0; i < questions_.size() && i < prompts_.size(); ++i)
        questions_[i].prompt = prompts_[i].text;
    }
    if (job_.common.dry_run) {
      log_info("{} rows, {} run(s), tasks checked; nothing was loaded", dataset_.size(), run_count());
      return 0;
    }
    const auto start = Clock::now();
    if (job_.eval.baseline || adapters_.empty()) add_run("base", "", *base_->decoder(TrainingPlan{}));
    for (std::size_t i = 0; i < adapters_.size(); ++i) {
      const fs::path folder = job_.eval.adapter[i];
      warn_of_another_base(adapters_[i], folder.string(), base_->folder());
      const auto decoder = base_->decoder(adapters_[i], 0);
      add_run(name_of(folder), folder.string(), *decoder);
    }
    results_.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    if (generation_seconds_ > 0.0)
      results_.output_tokens_per_second = static_cast<double>(new_tokens_) / generation_seconds_;
    return finish_eval(job_, results_);
  }

 private:
  static Dataset open_rows(const EvalJob& job) {
    if (job.data.eval_dataset.empty()) throw UsageError("eval_dataset: name the rows to evaluate on");
    return Dataset(job.data.eval_dataset, Dataset::Role::kEvaluation, static_cast<std::uint64_t>(job.common.seed));
  }

  std::size_t run_count() const { return adapters_.size() + (job_.eval.baseline || adapters_.empty() ? 1 : 0); }

  // The folder's name, made unique among the runs.
  std::string name_of(const fs::path& folder) const {
    const fs::path clean = folder.filename().empty() ? folder.parent_path() : folder;
    std::string name = clean.filename().string();
    const auto taken = [&](const std::string& n) {
      return std::any_of(results_.runs.begin(), results_.runs.end(), [&](const EvalRun& run) { return run.name == n; });
    };
    for (int i = 2; taken(name); ++i) name = fmt::format("{}-{}", clean.filename().string(), i);
    return name;
  }

  void add_run(const std::string& name, const std::string& adapter, Decoder& decoder) {
    EvalRun run{name, adapter, {}};
    std::vector<std::string> answers;
    if (wants(job_, "spider") || wants(job_, "generate")) answers = generate(name, decoder);
    for (const std::string& task : job_.eval.tasks) {
      if (task == "spider") run.tasks.push_back(scorer_->score(questions_, answers, job_.eval.extract));
      if (task == "generate") run.tasks.push_back(generated(answers));
      if (task == "perplexity") run.tasks.push_back(perplexity(name, decoder));
    }
    results_.runs.push_back(std::move(run));
  }

  std::vector<std::string> generate(const std::string& name, Decoder& decoder) {
    std::vector<std::vector<std::int32_t>> ids;
    for (const Prompt& prompt : prompts_) ids.push_back(prompt.ids);
    Generator::Settings settings;
    settings.options = job_.generate;
    settings.stop_ids = encoder_.stop_ids();
    settings.seed = static_cast<std::uint64_t>(job_.common.seed);
    if (!job_.generate.stop.empty()) {
      settings.stops = [this](std::span<const std::int32_t> answer) {
        return stop_position(decode(answer)).has_value();
      };
    }
    Progress progress(name, static_cast<std::int64_t>(ids.size()));
    settings.on_answer = [&](std::size_t, const Answer&) {
      throw_if_stopped();
      progress.step();
    };
    const auto start = Clock::now();
    const std::vector<Answer> answers = Generator(decoder, settings).generate(ids);
    generation_seconds_ += std::chrono::duration<double>(Clock::now() - start).count();
    std::vector<std::string> texts;
    for (const Answer& answer : answers) {
      new_tokens_ += static_cast<std::int64_t>(answer.ids.size()) + (answer.ended ? 1 : 0);
      std::string text = decode(answer.ids);
      if (const auto end = stop_position(text)) text.resize(*end);
      texts.push_back(std::move(text));
    }
    return texts;
  }

  std::string decode(std::span<const std::int32_t> ids) const {
    return encoder_.tokenizer().decode(ids, /*skip_special_tokens=*/true);
  }

  std::optional<std::size_t> stop_position(const std::string& text) const {
    std::size_t first = std::string::npos;
    for (const std::string& stop : job_.generate.stop) first = std::min(first, text.find(stop));
    return first == std::string::npos ? std::nullopt : std::optional(first);
  }

  TaskResult generated(const std::vector<std::string>& answers) const {
    TaskResult task;
    task.task = "generate";
    for (std::size_t i = 0; i < answers.size(); ++i) {
      EvalRow row;
      row.id = prompts_[i].id;
      row.prompt = prompts_[i].text;
      row.prediction = answers[i];
      row.gold = prompts_[i].gold;
      task.rows.push_back(std::move(row));
    }
    return task;
  }

  TaskResult perplexity(const std::string& name, Decoder& decoder) {
    if (perplexity_rows_.empty()) {
      EncodedSet encoded = encode_rows(dataset_, encoder_, resolve_limits(job_.data, read_model_limits(model_)));
      for (const auto& [reason, count] : encoded.counts.dropped)
        log_warning("perplexity: {} rows left out: {}", count, reason);
      perplexity_rows_ = std::move(encoded.rows);
      if (perplexity_rows_.empty()) throw DataError("perplexity: no row with a labelled token is left");
    }
    Progress progress(name, static_cast<std::int64_t>(perplexity_rows_.size()));
    const SetLoss loss = evaluate_loss(decoder, perplexity_rows_, job_.generate.batch_size.value_or(8),
                                       [&](std::int64_t done) { progress.update(done); });
    TaskResult task;
    task.task = "perplexity";
    task.scores = {"nll"};
    for (std::size_t i = 0; i < loss.rows.size(); ++i) {
      EvalRow row;
      row.id = perplexity_rows_.row_id(i);
      row.scores = {loss.rows[i].nll / static_cast<double>(std::max<std::int64_t>(loss.rows[i].tokens, 1))};
      task.rows.push_back(std::move(row));
    }
    task.overall = {{"loss", loss.mean()}, {"perplexity", std::exp(loss.mean())}};
    if (!job_.eval.per_row.empty() && !wants(job_, "spider") && results_.runs.empty()) write_row_losses(loss);
    return task;
  }

  void write_row_losses(const SetLoss& loss) const {
    std::string text;
    for (std::size_t i = 0; i < loss.rows.size(); ++i) {
      text +=
          Json{{"id", perplexity_rows_.row_id(i)}, {"nll", loss.rows[i].nll}, {"tokens", loss.rows[i].tokens}}.dump() +
          "\n";
    }
    write_file_atomically(job_.eval.per_row, text);
  }

  const EvalJob& job_;
  fs::path model_;
  Dataset dataset_;
  RowEncoder encoder_;
  std::vector<SpiderQuestion> questions_;
  std::unique_ptr<SpiderScorer> scorer_;
  std::vector<LoraAdapter> adapters_;
  std::unique_ptr<BaseModel> base_;
  std::vector<Prompt> prompts_;
  PreparedSet perplexity_rows_;
  EvalResults results_;
  std::int64_t new_tokens_ = 0;
  double generation_seconds_ = 0.0;
};

}  // namespace

int run_eval_model(const EvalJob& job) {
  return ModelEvaluation(job).run();
}

}  // namespace qlora
