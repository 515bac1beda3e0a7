#include "qlora/app/eval_model.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include <fmt/format.h>

#include "qlora/app/adapter_runs.h"
#include "qlora/app/base_model.h"
#include "qlora/app/eval_mmlu.h"
#include "qlora/app/eval_predictions.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/core/progress.h"
#include "qlora/core/signal.h"
#include "qlora/data/prepare.h"
#include "qlora/eval/generate_task.h"
#include "qlora/eval/task_scores.h"
#include "qlora/generate/generator.h"
#include "qlora/train/evaluate.h"
#include "qlora/weights/load.h"

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
  for (const PlannedRun& run : runs) taken.push_back(run.name);
  return name_of(folder, taken);
}

std::vector<PlannedRun> plan_runs(const EvalJob& job, const std::vector<LoraAdapter>& adapters) {
  std::vector<PlannedRun> runs;
  if (job.eval.baseline || adapters.empty())
    runs.push_back(
        {"base", "", nullptr, settings_of(job.common, job.model, adapters.empty() ? nullptr : &adapters.front())});
  for (std::size_t i = 0; i < adapters.size(); ++i) {
    const std::string& folder = job.eval.adapter[i];
    runs.push_back({name_among(runs, folder), folder, &adapters[i], settings_of(job.common, job.model, &adapters[i])});
    if (!job.eval.baseline || same_base(runs[0].settings, runs.back().settings)) continue;
    throw UsageError(
        fmt::format("baseline: one base cannot be paired with {}, trained over a base {}, and {}, over one {}; set "
                    "load_in_4bit (or use_bnb_nested_quant: false) for both, or evaluate them apart",
                    job.eval.adapter[0], words_for(runs[0].settings), folder, words_for(runs.back().settings)));
  }
  return runs;
}

RowRange part_of(const Dataset& dataset, const EvalOptions& options) {
  const auto begin = static_cast<std::size_t>(options.offset);
  if (begin >= dataset.size())
    throw UsageError(fmt::format("offset: eval_dataset has {} rows, none is left after {}", dataset.size(), begin));
  const auto most = static_cast<std::size_t>(options.limit.value_or(INT64_MAX));
  return {begin, begin + std::min(dataset.size() - begin, most)};
}

// The part's rows with their labels. Those without a labelled token are left out; those that are too long, too, or they
// are cut, as `overflow` says.
PreparedSet encode_part(const Dataset& dataset, const RowEncoder& encoder, const ModelLimits& limits, RowRange part) {
  EncodedSet set = encode_rows(dataset, encoder, limits, Json::object(), part);
  const auto warn = [&](const char* reason, const std::string& why) {
    const auto found = set.counts.dropped.find(reason);
    if (found != set.counts.dropped.end()) log_warning("perplexity: {} rows left out: {}", found->second, why);
  };
  warn("too_long", fmt::format("longer than {} tokens", limits.positions.value_or(0)));
  warn("no_label", "no token has a label");
  if (set.rows.empty()) throw DataError("perplexity: no row with a labelled token is left");
  return std::move(set.rows);
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
  const Json content = example.messages.back().value("content", Json());  // none where a turn only calls tools
  if (!content.is_array()) return content.is_string() ? content.get<std::string>() : "";
  std::string text;
  for (const Json& part : content) {
    if (part.contains("text") && part["text"].is_string()) text += part["text"].get<std::string>();
  }
  return text;
}

// Throws DataError for a row without a prompt, or whose prompt leaves no room for an answer within `longest_row`.
std::vector<Prompt> render_prompts(const Dataset& dataset, const RowEncoder& encoder, RowRange part,
                                   std::int64_t longest_row, std::int64_t max_new_tokens) {
  std::vector<Prompt> prompts;
  for (std::size_t i = part.begin; i < part.end; ++i) {
    const Example example = encoder.example(dataset, i);
    const Rendered rendered = encoder.render(example);
    try {
      prompts.push_back(
          {example.id, rendered.prompt.value_or(""), last_answer(example), encoder.encode_prompt(rendered)});
    } catch (const DataError& error) {
      throw DataError(fmt::format("{}: {}", dataset.place(i), error.what()));
    }
    const auto tokens = static_cast<std::int64_t>(prompts.back().ids.size());
    if (tokens + max_new_tokens > longest_row) {
      throw DataError(fmt::format(
          "{}: the prompt's {} tokens and max_new_tokens {} exceed the model's {} positions: lower max_new_tokens, or "
          "leave the row out",
          dataset.place(i), tokens, max_new_tokens, longest_row));
    }
  }
  return prompts;
}

class ModelEvaluation {
 public:
  explicit ModelEvaluation(const EvalJob& job)
      : job_(job),
        model_(model_folder_of(job.model)),
        dataset_(open_rows(job)),
        part_(dataset_ ? part_of(*dataset_, job.eval) : RowRange{}),
        encoder_(model_, with_adapters_template(job.data, job.eval.adapter), datasets()) {
    if (has_task(job.eval, "spider")) {
      const SpiderPlaces places = find_spider_places(job);
      questions_ = read_spider_questions(job);
      // Before the weights: the scorer forks its workers while the process is small.
      if (!job.common.dry_run)
        scorer_ =
            std::make_unique<SpiderScorer>(places.tables, places.db_dir, sandbox_limits(job.eval), job.eval.plug_value);
    }
    if (has_task(job.eval, "mmlu")) mmlu_.emplace(job, encoder_.tokenizer());
    for (const std::string& folder : job.eval.adapter) adapters_.push_back(load_lora_adapter(folder));
    runs_ = plan_runs(job, adapters_);
    read_rows();
    if (job.common.dry_run) {
      read_model_config(model_);
      return;
    }
    fetch_weights(job.model, model_);
    base_with(runs_.front().settings);
  }

  int run() {
    if (job_.common.dry_run) return print_eval_plan(job_, dataset_ ? part_.end - part_.begin : mmlu_->size(), plan());
    const auto start = Clock::now();
    for (const PlannedRun& run : runs_) {
      BaseModel& base = base_with(run.settings);
      if (run.adapter != nullptr) warn_of_another_base(*run.adapter, run.folder, base.folder());
      const auto decoder = run.adapter != nullptr ? base.decoder(*run.adapter, 0) : base.decoder(TrainingPlan{});
      add_run(run, *decoder);
    }
    results_.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    if (generation_seconds_ > 0.0)
      results_.output_tokens_per_second = static_cast<double>(new_tokens_) / generation_seconds_;
    return finish_eval(job_, results_);
  }

 private:
  // What the tasks ask, before any weight is touched.
  void read_rows() {
    if (has_task(job_.eval, "spider") || has_task(job_.eval, "generate")) {
      const std::int64_t longest_row = read_model_config(model_).longest_row();
      const std::int64_t most = job_.generate.max_new_tokens;
      if (most >= longest_row) {
        throw UsageError(fmt::format("max_new_tokens: {} leaves no room for a prompt: the model has {} positions", most,
                                     longest_row));
      }
      prompts_ = render_prompts(*dataset_, encoder_, part_, longest_row, most);
      for (std::size_t i = 0; i < questions_.size() && i < prompts_.size(); ++i)
        questions_[i].prompt = prompts_[i].text;
    }
    if (has_task(job_.eval, "perplexity")) {
      const ModelLimits limits = resolve_limits(job_.data, read_model_limits(model_));
      perplexity_rows_ = encode_part(*dataset_, encoder_, limits, part_);
    }
  }

  static std::optional<Dataset> open_rows(const EvalJob& job) {
    if (!needs_rows(job.eval)) return std::nullopt;
    if (job.data.eval_dataset.empty()) throw UsageError("eval_dataset: name the rows to evaluate on");
    return Dataset(job.data.eval_dataset, Dataset::Role::kEvaluation, static_cast<std::uint64_t>(job.common.seed));
  }

  std::vector<const Dataset*> datasets() const {
    return dataset_ ? std::vector<const Dataset*>{&*dataset_} : std::vector<const Dataset*>{};
  }

  // The base held so. One is in memory at a time: adapters that were trained alike share it.
  BaseModel& base_with(const BaseSettings& settings) {
    if (base_ != nullptr && same_base(base_->settings(), settings)) return *base_;
    base_.reset();
    base_ = std::make_unique<BaseModel>(model_, settings);
    return *base_;
  }

  Json plan() const {
    Json runs = Json::array();
    for (const PlannedRun& run : runs_) {
      runs.push_back({{"name", run.name},
                      {"adapter", run.folder.empty() ? Json(nullptr) : Json(run.folder)},
                      {"load_in_4bit", run.settings.quantize}});
    }
    return runs;
  }

  void add_run(const PlannedRun& planned, Decoder& decoder) {
    const std::string& name = planned.name;
    EvalRun run{name, planned.folder, {}};
    std::vector<std::string> answers;
    if (has_task(job_.eval, "spider") || has_task(job_.eval, "generate")) answers = generate(name, decoder);
    for (const std::string& task : job_.eval.tasks) {
      if (task == "spider") run.tasks.push_back(scorer_->score(questions_, answers, job_.eval.extract));
      if (task == "generate") run.tasks.push_back(generated(answers));
      if (task == "perplexity") run.tasks.push_back(perplexity(name, decoder));
      if (task == "mmlu") run.tasks.push_back(mmlu_->run(name, decoder));
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
    std::vector<EvalRow> rows;
    for (std::size_t i = 0; i < answers.size(); ++i) {
      EvalRow row;
      row.id = prompts_[i].id;
      row.prompt = prompts_[i].text;
      row.prediction = answers[i];
      row.gold = prompts_[i].gold;
      rows.push_back(std::move(row));
    }
    return score_answers(std::move(rows));
  }

  TaskResult perplexity(const std::string& name, Decoder& decoder) {
    Progress progress(name, static_cast<std::int64_t>(perplexity_rows_.size()));
    const SetLoss loss = evaluate_loss(decoder, perplexity_rows_, job_.generate.batch_size.value_or(8),
                                       [&](std::int64_t done) { progress.update(done); });
    TaskResult task;
    task.task = "perplexity";
    task.scores = {"nll"};
    for (std::size_t i = 0; i < loss.rows.size(); ++i) {
      EvalRow row;
      row.id = perplexity_rows_.row_id(i);
      row.nll = loss.rows[i].nll;
      row.tokens = loss.rows[i].tokens;
      row.scores = {row.nll / static_cast<double>(std::max<std::int64_t>(row.tokens, 1))};
      task.rows.push_back(std::move(row));
    }
    task.overall = {{"loss", loss.mean()}, {"perplexity", std::exp(loss.mean())}};
    return task;
  }

  const EvalJob& job_;
  fs::path model_;
  std::optional<Dataset> dataset_;
  RowRange part_;
  RowEncoder encoder_;
  std::vector<SpiderQuestion> questions_;
  std::unique_ptr<SpiderScorer> scorer_;
  std::optional<MmluEvaluation> mmlu_;
  std::vector<LoraAdapter> adapters_;
  std::vector<PlannedRun> runs_;  // in the report's order
  std::unique_ptr<BaseModel> base_;
  std::vector<Prompt> prompts_;
  PreparedSet perplexity_rows_;
  EvalResults results_;
  std::int64_t new_tokens_ = 0;
  double generation_seconds_ = 0.0;
};

}  // namespace

int run_eval_model(const EvalJob& job) {
  check_eval_options(job.eval);
  return ModelEvaluation(job).run();
}

}  // namespace qlora
