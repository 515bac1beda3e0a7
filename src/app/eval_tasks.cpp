#include "qlora/app/eval_tasks.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include <fmt/format.h>

#include "qlora/app/base_model.h"
#include "qlora/app/eval_predictions.h"
#include "qlora/core/error.h"
#include "qlora/core/hash.h"
#include "qlora/core/log.h"
#include "qlora/core/progress.h"
#include "qlora/core/signal.h"
#include "qlora/data/batches.h"
#include "qlora/eval/generate_task.h"
#include "qlora/eval/task_scores.h"
#include "qlora/generate/memory.h"
#include "qlora/train/evaluate.h"

namespace qlora {
namespace {

using Clock = std::chrono::steady_clock;

// The rows' name in PartialResults; spider and generate score the same answers.
constexpr const char* kAnswers = "answers";

RowRange part_of(const Dataset& dataset, const EvalOptions& options) {
  const auto begin = static_cast<std::size_t>(options.offset);
  if (begin >= dataset.size())
    throw UsageError(fmt::format("offset: eval_dataset has {} rows, none is left after {}", dataset.size(), begin));
  const auto most = static_cast<std::size_t>(options.limit.value_or(INT64_MAX));
  return {begin, begin + std::min(dataset.size() - begin, most)};
}

// The part's rows with their labels. Those without a labelled token are left out; those that are too long, too, or they
// are cut, as `overflow` says.
EncodedSet encode_part(const Dataset& dataset, const RowEncoder& encoder, const ModelLimits& limits, RowRange part) {
  EncodedSet set = encode_rows(dataset, encoder, limits, Json::object(), part);
  const auto warn = [&](const char* reason, const std::string& why) {
    const auto found = set.counts.dropped.find(reason);
    if (found != set.counts.dropped.end()) log_warning("perplexity: {} rows left out: {}", found->second, why);
  };
  warn("too_long", fmt::format("longer than {} tokens", limits.positions.value_or(0)));
  warn("no_label", "no token has a label");
  if (set.rows.empty()) throw DataError("perplexity: no row with a labelled token is left");
  return set;
}

// All windows lie in memory at once, in some ten bytes a token.
constexpr std::int64_t kMostWindowTokens = std::int64_t{1} << 28;

// Rows in windows of `length` tokens, each beginning `stride` after the one before; a token's label stays in the first
// window that has it. As transformers' guide to the perplexity of models with a fixed length has it. Windows without
// anything to predict are left out. row_of: the row of each window.
PreparedSet windows_of(const PreparedSet& rows, std::int64_t length, std::int64_t stride,
                       std::vector<std::size_t>& row_of) {
  std::int64_t tokens_in_all = 0;
  for (std::size_t row = 0; row < rows.size(); ++row)
    tokens_in_all += length * (1 + std::max<std::int64_t>(0, rows.length(row) - length + stride - 1) / stride);
  if (tokens_in_all > kMostWindowTokens) {
    throw UsageError(fmt::format("stride: {} makes windows with {} tokens in all, more than {}; raise it, or set limit",
                                 stride, tokens_in_all, kMostWindowTokens));
  }
  std::vector<EncodedRow> windows;
  std::vector<Json> ids;
  for (std::size_t row = 0; row < rows.size(); ++row) {
    const std::span<const std::int32_t> tokens = rows.ids(row);
    std::int64_t counted = 0;
    for (std::int64_t begin = 0; counted < std::ssize(tokens); begin += stride) {
      const std::int64_t end = std::min(begin + length, static_cast<std::int64_t>(tokens.size()));
      EncodedRow window;
      for (std::int64_t t = begin; t < end; ++t) {
        window.ids.push_back(tokens[static_cast<std::size_t>(t)]);
        window.labelled.push_back(t >= counted && rows.labelled(row, t) ? 1 : 0);
      }
      counted = end;
      if (window.targets() == 0) continue;
      windows.push_back(std::move(window));
      ids.push_back(rows.row_id(row));
      row_of.push_back(row);
    }
  }
  if (windows.empty()) throw DataError("perplexity: no window has a token to predict; a longer max_length shows more");
  return PreparedSet::from_rows(windows, ids, Json::object());
}

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

template <class T>
void add_values(Sha256& hash, std::span<const T> values) {
  hash.update(fmt::format("{}:", values.size()));
  hash.update({reinterpret_cast<const char*>(values.data()), values.size_bytes()});
}

}  // namespace

EvalTasks::EvalTasks(const EvalJob& job, const std::filesystem::path& model, const RowEncoder& encoder,
                     const Dataset* rows)
    : job_(job), encoder_(encoder) {
  const ModelConfig config = read_model_config(model);
  if (rows != nullptr) part_ = part_of(*rows, job_.eval);
  if (has_task(job_.eval, "spider")) {
    const SpiderPlaces places = find_spider_places(job_);
    questions_ = read_spider_questions(job_, rows);
    if (!job_.common.dry_run)
      scorer_ =
          std::make_unique<SpiderScorer>(places.tables, places.db_dir, sandbox_limits(job_.eval), job_.eval.plug_value);
  }
  if (has_task(job_.eval, "mmlu")) mmlu_.emplace(job_, encoder_.tokenizer());
  if (generates()) prompts_ = render_prompts(*rows, config.longest_row());
  for (std::size_t i = 0; i < questions_.size() && i < prompts_.size(); ++i) questions_[i].prompt = prompts_[i].text;
  if (has_task(job_.eval, "perplexity")) {
    ModelLimits limits = resolve_limits(job_.data, read_model_limits(model));
    const std::int64_t length = limits.positions.value_or(0);
    const std::int64_t stride = job_.eval.stride.value_or(0);  // 0: rows as they are
    if (stride > 0 && length == 0) throw UsageError("stride: needs max_length, since the model's own is not known");
    if (stride > length) {
      throw UsageError(fmt::format(
          "stride: {} is more than a window's {} tokens: what lies between would not be counted", stride, length));
    }
    if (stride > 0) limits.positions.reset();
    perplexity_ = encode_part(*rows, encoder_, limits, part_);
    if (stride > 0) perplexity_.rows = windows_of(perplexity_.rows, length, stride, row_of_window_);
  }
}

bool EvalTasks::generates() const {
  return has_task(job_.eval, "spider") || has_task(job_.eval, "generate");
}

std::size_t EvalTasks::size() const {
  return needs_rows(job_.eval.tasks) ? part_.end - part_.begin : mmlu_->size();
}

bool EvalTasks::rows_carry_answers() const {
  return std::any_of(prompts_.begin(), prompts_.end(), [](const Prompt& prompt) { return !prompt.gold.empty(); });
}

std::int64_t EvalTasks::bytes(const Decoder& decoder) const {
  std::int64_t longest = 0;
  for (const Prompt& prompt : prompts_) longest = std::max(longest, std::ssize(prompt.ids));
  std::int64_t most = generator_bytes(decoder, job_.generate, std::ssize(prompts_), longest);
  if (mmlu_) most = std::max(most, mmlu_->bytes(decoder));
  if (perplexity_.rows.empty()) return most;
  const Epoch batches = evaluation_batches(perplexity_.rows, perplexity_batch());
  for (std::int64_t i = 0; i < batches.steps(); ++i) {
    const PackedBatch batch = batches.step(i).batch(perplexity_.rows, 0);
    most = std::max(
        most, pass_bytes(decoder, HeadKind::kNll, {batch.tokens(), std::ssize(batch.targets), 0, batch.max_length()}));
  }
  return most;
}

std::int64_t EvalTasks::tokens() const {
  std::int64_t count = perplexity_.rows.tokens() + (mmlu_ ? mmlu_->tokens() : 0);
  for (const Prompt& prompt : prompts_) count += std::ssize(prompt.ids) + job_.generate.max_new_tokens;
  return count;
}

std::string EvalTasks::fingerprint() const {
  Sha256 hash;
  const std::vector<std::int32_t> stops = encoder_.stop_ids();
  add_values(hash, std::span<const std::int32_t>(stops));
  for (const Prompt& prompt : prompts_) add_values(hash, std::span<const std::int32_t>(prompt.ids));
  for (std::size_t i = 0; i < perplexity_.rows.size(); ++i) {
    add_values(hash, perplexity_.rows.ids(i));
    for (std::int64_t t = 0; t < perplexity_.rows.length(i); ++t)
      hash.update(perplexity_.rows.labelled(i, t) ? "1" : "0");
  }
  if (mmlu_) mmlu_->add_to(hash);
  return hash.hex();
}

// Throws DataError for a row without a prompt, or whose prompt leaves no room for an answer within `longest_row`.
std::vector<EvalTasks::Prompt> EvalTasks::render_prompts(const Dataset& rows, std::int64_t longest_row) const {
  const std::int64_t most = job_.generate.max_new_tokens;
  if (most >= longest_row) {
    throw UsageError(
        fmt::format("max_new_tokens: {} leaves no room for a prompt: the model has {} positions", most, longest_row));
  }
  std::vector<Prompt> prompts;
  for (std::size_t i = part_.begin; i < part_.end; ++i) {
    const Example example = encoder_.example(rows, i);
    const Rendered rendered = encoder_.render(example);
    try {
      prompts.push_back(
          {example.id, rendered.prompt.value_or(""), last_answer(example), encoder_.encode_prompt(rendered)});
    } catch (const DataError& error) {
      throw DataError(fmt::format("{}: {}", rows.place(i), error.what()));
    }
    const auto tokens = static_cast<std::int64_t>(prompts.back().ids.size());
    if (tokens + most > longest_row) {
      throw DataError(fmt::format(
          "{}: the prompt's {} tokens and max_new_tokens {} exceed the model's {} positions: lower max_new_tokens, or "
          "leave the row out",
          rows.place(i), tokens, most, longest_row));
    }
  }
  return prompts;
}

std::vector<TaskResult> EvalTasks::run(const std::string& name, Decoder& decoder, PartialResults& partial) {
  std::vector<std::string> answers;
  if (generates()) answers = generate(name, decoder, partial);
  std::vector<TaskResult> results;
  for (const std::string& task : job_.eval.tasks) {
    if (task == "spider") results.push_back(scorer_->score(questions_, answers, job_.eval.extract));
    if (task == "generate") results.push_back(generated(answers));
    if (task == "perplexity") results.push_back(perplexity(name, decoder, partial));
    if (task == "mmlu") results.push_back(mmlu_->run(name, decoder, partial));
  }
  return results;
}

std::optional<double> EvalTasks::output_tokens_per_second() const {
  if (generation_seconds_ <= 0.0) return std::nullopt;
  return static_cast<double>(new_tokens_) / generation_seconds_;
}

Generator::Settings EvalTasks::generator_settings() const {
  Generator::Settings settings;
  settings.options = job_.generate;
  settings.stop_ids = encoder_.stop_ids();
  settings.seed = static_cast<std::uint64_t>(job_.common.seed);
  if (job_.generate.stop.empty()) return settings;
  settings.stops = [this](std::span<const std::int32_t> answer) {
    return stop_position(encoder_.tokenizer().decode(answer, /*skip_special_tokens=*/true)).has_value();
  };
  return settings;
}

std::vector<std::string> EvalTasks::generate(const std::string& name, Decoder& decoder, PartialResults& partial) {
  std::vector<Answer> answers(prompts_.size());
  std::vector<std::size_t> left;  // prompts that are still to be answered
  for (std::size_t i = 0; i < prompts_.size(); ++i) {
    const Json* known = partial.find(name, kAnswers, i);
    if (known == nullptr) left.push_back(i);
    if (known != nullptr)
      answers[i] = {known->at("ids").get<std::vector<std::int32_t>>(), known->at("ended").get<bool>()};
  }
  if (job_.generate.temperature > 0.0 && !left.empty()) {
    left.resize(prompts_.size());
    std::iota(left.begin(), left.end(), std::size_t{0});
  }
  std::vector<std::vector<std::int32_t>> ids;
  ids.reserve(left.size());
  for (const std::size_t i : left) ids.push_back(prompts_[i].ids);
  Generator::Settings settings = generator_settings();
  Progress progress(name, static_cast<std::int64_t>(ids.size()));
  settings.on_answer = [&](std::size_t prompt, const Answer& answer) {
    throw_if_stopped();
    partial.add(name, kAnswers, left[prompt], {{"ids", answer.ids}, {"ended", answer.ended}});
    progress.step();
  };
  const auto start = Clock::now();
  std::vector<Answer> made = Generator(decoder, settings).generate(ids);
  if (!left.empty()) generation_seconds_ += std::chrono::duration<double>(Clock::now() - start).count();
  for (std::size_t i = 0; i < left.size(); ++i) {
    new_tokens_ += static_cast<std::int64_t>(made[i].ids.size()) + (made[i].ended ? 1 : 0);
    answers[left[i]] = std::move(made[i]);
  }
  std::vector<std::string> texts;
  texts.reserve(answers.size());
  for (const Answer& answer : answers) texts.push_back(text_of(answer));
  return texts;
}

std::string EvalTasks::text_of(const Answer& answer) const {
  std::string text = encoder_.tokenizer().decode(answer.ids, /*skip_special_tokens=*/true);
  if (const auto end = stop_position(text)) text.resize(*end);
  return text;
}

std::optional<std::size_t> EvalTasks::stop_position(const std::string& text) const {
  std::size_t first = std::string::npos;
  for (const std::string& stop : job_.generate.stop) first = std::min(first, text.find(stop));
  return first == std::string::npos ? std::nullopt : std::optional(first);
}

TaskResult EvalTasks::generated(const std::vector<std::string>& answers) const {
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

TaskResult EvalTasks::perplexity(const std::string& name, Decoder& decoder, PartialResults& partial) const {
  const PreparedSet& rows = perplexity_.rows;
  std::map<std::uint32_t, RowLoss> known;
  for (std::uint32_t i = 0; i < rows.size(); ++i) {
    const Json* row = partial.find(name, "perplexity", i);
    if (row != nullptr) known[i] = {row->at("nll").get<double>(), row->at("tokens").get<std::int64_t>()};
  }
  Progress progress(name, static_cast<std::int64_t>(rows.size() - known.size()));
  const auto on_batch = [&](std::span<const std::uint32_t> batch, const SetLoss& loss) {
    for (const std::uint32_t i : batch)
      partial.add(name, "perplexity", i, {{"nll", loss.rows[i].nll}, {"tokens", loss.rows[i].tokens}});
    progress.step(std::ssize(batch));
  };
  const SetLoss loss = evaluate_loss(decoder, rows, perplexity_batch(), on_batch, {}, known);
  TaskResult task;
  task.task = "perplexity";
  task.scores = {"nll"};
  for (std::size_t i = 0; i < loss.rows.size(); ++i) {
    const bool goes_on = i > 0 && !row_of_window_.empty() && row_of_window_[i] == row_of_window_[i - 1];
    if (!goes_on) task.rows.emplace_back().id = rows.row_id(i);
    task.rows.back().nll += loss.rows[i].nll;
    task.rows.back().tokens += loss.rows[i].tokens;
  }
  for (EvalRow& row : task.rows) row.scores = {row.nll / static_cast<double>(std::max<std::int64_t>(row.tokens, 1))};
  task.overall = {{"loss", loss.mean()}, {"perplexity", std::exp(loss.mean())}};
  task.details["left_out"] = perplexity_.counts.dropped;
  task.details["truncated"] = perplexity_.counts.truncated;
  return task;
}

}  // namespace qlora
