#include "qlora/train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "qlora/core/atomic_file.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/core/progress.h"
#include "qlora/core/signal.h"
#include "qlora/train/device_batch.h"
#include "qlora/train/evaluate.h"
#include "qlora/train/schedule.h"

namespace qlora {
namespace {

namespace fs = std::filesystem;
double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

bool is_out_of_memory(const c10::Error& error) {
  return dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr ||
         std::string(error.what_without_backtrace()).find("can't allocate memory") != std::string::npos;
}

// As torch.amp.GradScaler has them.
constexpr double kFirstHalfScale = 65536.0;
constexpr std::int64_t kStepsBeforeLargerScale = 2000;

constexpr double kGib = 1024.0 * 1024.0 * 1024.0;

}  // namespace

Json TrainingResult::to_json(const std::string& output_dir) const {
  return {{"output_dir", output_dir},
          {"steps", steps},
          {"train_loss", train_loss},
          {"eval_loss", eval_loss ? Json(*eval_loss) : Json()},
          {"kept_step", kept_step},
          {"tokens", tokens},
          {"input_tokens", input_tokens},
          {"seconds", seconds},
          {"tokens_per_second", tokens_per_second},
          {"memory_allocated_gib", memory_allocated_gib},
          {"memory_used_gib", memory_used_gib}};
}

std::int64_t total_steps(const TrainOptions& options, std::int64_t steps_per_epoch) {
  if (options.max_steps > 0) return options.max_steps;
  return static_cast<std::int64_t>(std::ceil(options.num_train_epochs * static_cast<double>(steps_per_epoch)));
}

Trainer::Trainer(Decoder& decoder, const PreparedSet& train, const PreparedSet* eval, TrainerSettings settings)
    : decoder_(decoder),
      train_(train),
      eval_(eval),
      settings_(std::move(settings)),
      batcher_(train, settings_.batches) {
  const TrainOptions& o = settings_.options;
  total_ = total_steps(o, batcher_.steps_per_epoch());
  warmup_ = warmup_steps(o, total_);
  loss_scale_ = settings_.loss_scale.value_or(decoder.dtype() == at::kHalf ? kFirstHalfScale : 1.0);
  plan_ = plan_run(decoder, o, train, settings_.batches, total_, settings_.on_eval_bytes);
  log_info("memory: {}", plan_.bytes.text());
  if (plan_.host.total() > 0) log_info("memory: pinned on the host {}", plan_.host.text());
  if (plan_.pages_optimizer)
    log_info("memory: the moments are paged, though optim does not ask for it, so that all fits");
  if (plan_.lean) log_info("memory: attention's backward pass takes its slower form, so that all fits");
  if (plan_.host.embedding > 0) decoder.move_embedding_to_host();
  AdamWSettings adamw = adamw_settings(o);
  adamw.paged = adamw.paged || plan_.pages_optimizer;
  optimizer_ = std::make_unique<AdamW>(decoder.parameters(), adamw);
  programs_ =
      std::make_unique<ProgramCache>(decoder.blocks(HeadKind::kLoss), Pass::kTraining, plan_.keep, decoder.device());
  runner_ = std::make_unique<ProgramRunner>(*programs_, decoder.store(), o.cuda_graphs);
}

std::vector<std::string> changed_keys(const Json& earlier, const Json& now) {
  std::vector<std::string> changed;
  for (const auto& [key, value] : now.items()) {
    if (!earlier.contains(key) || earlier.at(key) != value) changed.push_back(key);
  }
  return changed;
}

void Trainer::resume(const fs::path& checkpoint) {
  const CheckpointState state = load_checkpoint(checkpoint);
  const std::vector<std::string> changed = changed_keys(state.run.at("identity"), settings_.identity);
  if (!changed.empty()) {
    throw UsageError(fmt::format("{}: was written with another {}; resume_from_checkpoint: none starts anew",
                                 checkpoint.string(), fmt::join(changed, ", ")));
  }
  decoder_.parameters().values().copy_(state.optimizer.values);
  decoder_.parameters().refresh_compute();
  read_run(state.run);
  optimizer_->restore(state.optimizer.moments, step_);
  log_info("resuming after step {} from {}", step_, checkpoint.string());
}

Json Trainer::write_run() const {
  return {{"identity", settings_.identity},
          {"step", step_},
          {"epoch", batcher_.position().epoch},
          {"step_of_epoch", batcher_.position().step},
          {"tokens", tokens_},
          {"input_tokens", input_tokens_},
          {"loss_sum", loss_sum_},
          {"seconds", seconds_},
          {"window_loss", window_loss_},
          {"window_steps", window_steps_},
          {"eval_loss", eval_loss_ ? Json(*eval_loss_) : Json()},
          {"best_score", best_score_ ? Json(*best_score_) : Json()},
          {"best_step", best_step_},
          {"evaluations_without_best", evaluations_without_best_},
          {"evaluation_due", evaluation_due_},
          {"stop_early", stop_early_},
          {"loss_scale", loss_scale_},
          {"steps_at_scale", steps_at_scale_},
          {"log_history", log_history_}};
}

void Trainer::read_run(const Json& run) {
  const auto optional = [&](const char* key) {
    return run.at(key).is_null() ? std::optional<double>() : std::optional(run.at(key).get<double>());
  };
  run.at("step").get_to(step_);
  batcher_ = Batcher(train_, settings_.batches,
                     {run.at("epoch").get<std::int64_t>(), run.at("step_of_epoch").get<std::int64_t>()});
  run.at("tokens").get_to(tokens_);
  run.at("input_tokens").get_to(input_tokens_);
  run.at("loss_sum").get_to(loss_sum_);
  run.at("seconds").get_to(seconds_);
  run.at("window_loss").get_to(window_loss_);
  run.at("window_steps").get_to(window_steps_);
  eval_loss_ = optional("eval_loss");
  best_score_ = optional("best_score");
  run.at("best_step").get_to(best_step_);
  run.at("evaluations_without_best").get_to(evaluations_without_best_);
  run.at("evaluation_due").get_to(evaluation_due_);
  run.at("stop_early").get_to(stop_early_);
  run.at("loss_scale").get_to(loss_scale_);
  run.at("steps_at_scale").get_to(steps_at_scale_);
  log_history_ = run.at("log_history");
  last_saved_ = step_;
}

double Trainer::epoch_reached() const {
  return static_cast<double>(step_) / static_cast<double>(batcher_.steps_per_epoch());
}

// Counts all that is held now, and `more_bytes` that were held meanwhile. On a GPU its allocator has counted.
void Trainer::note_memory(std::int64_t more_bytes) {
  if (!decoder_.device().is_cpu()) {
    peak_bytes_ = peak_allocated(decoder_.device());
    used_gib_ = std::max(used_gib_, static_cast<double>(used_memory(decoder_.device())) / kGib);
    return;
  }
  used_gib_ = peak_process_gib();
  const MemoryBytes& planned = plan_.bytes;
  const std::int64_t held = decoder_.store().bytes() + decoder_.store().scratch_bytes() + programs_->arena_bytes() +
                            planned.trainable + planned.gradients + planned.optimizer;
  peak_bytes_ = std::max(peak_bytes_, held + more_bytes);
}

double Trainer::peak_gib() const {
  return static_cast<double>(peak_bytes_) / kGib;
}

Batch Trainer::training_batch(const PackedBatch& packed, std::int64_t targets_of_step, std::int64_t step,
                              double scale) const {
  Batch batch = to_device_batch(packed, targets_of_step, static_cast<std::uint64_t>(step), /*training=*/true,
                                decoder_.device(), scale);
  batch.lean = plan_.lean;
  return batch;
}

// Compiles for the largest batches, so that no later one needs more memory. On a GPU the first of them also runs, for
// what is only taken then; its gradients are dropped, and its rows come again in their place.
void Trainer::probe_memory() {
  const PackedBatch& longest = plan_.largest.front().batch;
  const at::Device device = decoder_.device();
  try {
    for (const LargestBatch& largest : plan_.largest) {
      const Batch batch = training_batch(largest.batch, 1, 0);
      if (device.is_cpu()) {
        programs_->program_for(batch);
      } else {
        runner_->run(batch);
      }
    }
    // What loading the weights has left goes back to the card.
    if (!device.is_cpu()) c10::getDeviceAllocator(device.type())->emptyCache();
  } catch (const c10::Error& error) {
    if (!is_out_of_memory(error)) throw;
    throw OutOfMemory(
        fmt::format("the longest batch of this run, {} rows with {} tokens, does not fit into memory: lower "
                    "per_device_train_batch_size (and raise gradient_accumulation_steps), lower max_length, or set "
                    "gradient_checkpointing: true",
                    longest.sequences(), longest.tokens()));
  }
}

TrainingResult Trainer::run(bool earlier_stands) {
  const std::vector<std::string>& report_to = settings_.options.report_to;
  const bool tensorboard = report_to.empty() || std::count(report_to.begin(), report_to.end(), "tensorboard") > 0;
  metrics_ = std::make_unique<MetricsFile>(settings_.output, step_, tensorboard, evaluation_due_, earlier_stands);
  probe_memory();
  Progress progress("steps", total_);
  evaluate_if_due();
  while (step_ < total_ && !stop_early_) {
    const std::int64_t epoch = batcher_.position().epoch;
    step(merged(batcher_.next(), plan_.merged));
    // The GPU works on this step while the host reads the last one's numbers and prepares the next.
    settle(decoder_.device().is_cpu() ? 0 : 1);
    progress.update(step_ - static_cast<std::int64_t>(pending_.size()), fmt::format("loss {:.4f}", last_loss_));
    after_step(batcher_.position().epoch != epoch);
  }
  settle(0);
  if (settings_.options.load_best_model_at_end) load_best();
  return result();
}

// One optimizer step: gradients of every micro-batch added up, checked, clipped, applied.
void Trainer::step(StepRows rows) {
  const auto start = Clock::now();
  const at::Device device = decoder_.device();
  decoder_.parameters().zero_grad();
  at::Tensor loss = at::zeros({}, at::TensorOptions().device(device).dtype(at::kDouble));
  for (std::size_t m = 0; m < rows.micro_batches.size(); ++m) {
    const Batch batch = training_batch(rows.batch(train_, m), rows.targets, step_, loss_scale_);
    loss.add_(runner_->run(batch).squeeze(0));
  }
  if (loss_scale_ != 1.0) {
    at::Tensor gradients = decoder_.parameters().grads();
    gradients.mul_(1.0 / loss_scale_);
    loss.mul_(1.0 / loss_scale_);
  }
  const double rate =
      settings_.options.learning_rate * schedule_factor(settings_.options.lr_scheduler_type, step_, warmup_, total_);
  const at::Tensor norm =
      optimizer_->step(rate, settings_.options.max_grad_norm, device.is_cpu() ? loss : loss.to(at::kFloat));
  ++step_;
  PendingStep pending{
      std::move(rows), {step_, epoch_reached(), 0.0, 0.0, rate, 0, 0, 0.0, 0.0, 0.0}, start, {}, std::nullopt};
  pending.numbers = at::stack({loss, norm.to(at::kDouble)});
  if (!device.is_cpu()) {
    const at::Tensor host = at::empty({2}, at::TensorOptions().dtype(at::kDouble).pinned_memory(true));
    pending.numbers = host.copy_(pending.numbers, /*non_blocking=*/true);
    pending.arrived.emplace(device.type());
    pending.arrived->record(c10::impl::VirtualGuardImpl(device.type()).getStream(device));
  }
  pending_.push_back(std::move(pending));
}

// Waits for the oldest steps until `left` are under way.
void Trainer::settle(std::size_t left) {
  while (pending_.size() > left) settle_oldest();
}

void Trainer::settle_oldest() {
  PendingStep pending = std::move(pending_.front());
  pending_.pop_front();
  if (pending.arrived) pending.arrived->synchronize();
  StepMetrics& metrics = pending.metrics;
  metrics.loss = pending.numbers[0].item<double>();
  metrics.grad_norm = pending.numbers[1].item<double>();
  if (!std::isfinite(metrics.loss) || !std::isfinite(metrics.grad_norm)) {
    if (loss_scale_ > 1.0) return repeat_at_lower_scale(std::move(pending));
    report_divergence(pending.rows, metrics);
  }
  if (loss_scale_ > 1.0 && ++steps_at_scale_ == kStepsBeforeLargerScale) {
    loss_scale_ *= 2.0;
    steps_at_scale_ = 0;
  }
  metrics.seconds = seconds_since(std::max(pending.start, last_settled_));
  last_settled_ = Clock::now();
  metrics.tokens = pending.rows.targets;
  metrics.input_tokens = pending.rows.tokens;
  tokens_ += metrics.tokens;
  input_tokens_ += metrics.input_tokens;
  loss_sum_ += metrics.loss;
  last_loss_ = metrics.loss;
  window_loss_ += metrics.loss;
  ++window_steps_;
  seconds_ += metrics.seconds;
  if (metrics.step % settings_.options.logging_steps != 0 && metrics.step != total_) return;
  note_memory(0);
  metrics.memory_allocated_gib = peak_gib();
  metrics.memory_used_gib = used_gib_;
  log(metrics);
}

// Neither the step whose gradients overflowed nor those begun after it have changed anything: they run again.
void Trainer::repeat_at_lower_scale(PendingStep failed) {
  std::deque<PendingStep> again = std::exchange(pending_, {});
  again.push_front(std::move(failed));
  for (const PendingStep& pending : again) {
    if (pending.arrived) pending.arrived->synchronize();
  }
  loss_scale_ /= 2.0;
  steps_at_scale_ = 0;
  step_ = again.front().metrics.step - 1;
  log_debug("step {}: gradients overflow, the loss is scaled by {:g} from now on", step_ + 1, loss_scale_);
  optimizer_->forget_failure(step_);
  for (PendingStep& pending : again) step(std::move(pending.rows));
}

// Runs the step's micro-batches once more, with checks, to say where it began.
void Trainer::report_divergence(const StepRows& rows, const StepMetrics& metrics) {
  std::string where = "gradients of the parameters";
  for (std::size_t m = 0; m < rows.micro_batches.size(); ++m) {
    const Batch batch = training_batch(rows.batch(train_, m), rows.targets, metrics.step - 1);
    const std::string found = programs_->program_for(batch).first_non_finite(batch);
    if (found.empty()) continue;
    std::vector<std::string> ids;
    for (const std::uint32_t row : rows.micro_batches[m]) ids.push_back(train_.row_id(row).dump());
    where = fmt::format("{}, micro-batch {} (rows {})", found, m, fmt::join(ids, ", "));
    break;
  }
  throw Diverged(
      fmt::format("step {}: loss {}, gradient norm {}: NaN or Inf first appeared in the {}. Nothing was updated or "
                  "saved for this step; try a lower learning_rate (now {}), warmup_ratio, or dtype float32",
                  metrics.step, metrics.loss, metrics.grad_norm, where, settings_.options.learning_rate));
}

void Trainer::log(const StepMetrics& metrics) {
  metrics_->write(metrics.to_json());
  log_history_.push_back({{"epoch", metrics.epoch},
                          {"grad_norm", metrics.grad_norm},
                          {"learning_rate", metrics.learning_rate},
                          {"loss", window_loss_ / static_cast<double>(window_steps_)},
                          {"step", metrics.step}});
  log_info("step {}/{}  loss {:.4f}  grad_norm {:.3f}  lr {:.3g}  {:.0f} tokens/s", metrics.step, total_, metrics.loss,
           metrics.grad_norm, metrics.learning_rate, static_cast<double>(metrics.input_tokens) / metrics.seconds);
  window_loss_ = 0.0;
  window_steps_ = 0;
}

bool Trainer::due(Strategy strategy, std::int64_t every, bool epoch_ended) const {
  if (strategy == Strategy::kNo) return false;
  if (strategy == Strategy::kEpoch) return epoch_ended;
  return step_ % every == 0;
}

void Trainer::after_step(bool epoch_ended) {
  const TrainOptions& o = settings_.options;
  const bool last = step_ == total_;
  evaluation_due_ =
      eval_ != nullptr && due(o.eval_strategy, o.eval_steps.value_or(o.logging_steps), epoch_ended || last);
  if (stop_requested() && (evaluation_due_ || !last)) stop();
  evaluate_if_due();
  const bool ended = (last || stop_early_) && o.save_strategy != Strategy::kNo;
  if (ended || due(o.save_strategy, o.save_steps, epoch_ended)) save();
  if (stop_requested() && !last && !stop_early_) stop();
}

// A signal during the evaluation leaves a checkpoint from which the run goes on with it.
void Trainer::evaluate_if_due() {
  if (!evaluation_due_) return;
  try {
    evaluate();
  } catch (const Error&) {
    if (stop_requested()) stop();
    throw;
  }
  evaluation_due_ = false;
  if (best_must_be_saved()) save();
}

bool Trainer::best_must_be_saved() const {
  return settings_.options.load_best_model_at_end && best_step_ == step_;
}

void Trainer::stop() {
  save();
  throw Error(stop_code(),
              fmt::format("stopped by a signal after step {} of {}; the same command resumes from checkpoint-{}", step_,
                          total_, step_));
}

bool Trainer::improves(double score) const {
  if (!best_score_) return true;
  const bool greater =
      settings_.options.greater_is_better.value_or(!settings_.options.metric_for_best_model.ends_with("loss"));
  return greater ? score > *best_score_ : score < *best_score_;
}

void Trainer::evaluate() {
  settle(0);
  const auto start = Clock::now();
  const SetLoss loss =
      evaluate_loss(decoder_, *eval_, settings_.options.per_device_eval_batch_size, {}, programs_->arena());
  note_memory(loss.more_bytes);
  eval_loss_ = loss.mean();
  Json line{{"step", step_}, {"epoch", epoch_reached()}, {"eval_loss", *eval_loss_}};
  const double seconds = seconds_since(start);
  const Json scores = further_scores();
  line.update(scores);
  line["eval_runtime"] = seconds;
  line["eval_samples_per_second"] = static_cast<double>(eval_->size()) / seconds;
  metrics_->write(line);
  log_history_.push_back(line);
  std::string text;
  for (const auto& [name, score] : scores.items()) text += fmt::format("  {} {:.4g}", name, score.get<double>());
  log_info("step {}/{}  eval_loss {:.4f}{}", step_, total_, *eval_loss_, text);
  judge(line);
}

Json Trainer::further_scores() {
  if (!settings_.on_eval) return Json::object();
  Json scores = settings_.on_eval();
  note_memory(settings_.on_eval_bytes);
  return scores;
}

// Whether this evaluation is the best, and whether it is time to stop early.
void Trainer::judge(const Json& line) {
  std::string metric = settings_.options.metric_for_best_model;
  if (!metric.starts_with("eval_")) metric = "eval_" + metric;
  if (!line.contains(metric)) {
    throw UsageError(fmt::format("metric_for_best_model '{}': an evaluation gives no such score",
                                 settings_.options.metric_for_best_model));
  }
  const double score = line.at(metric).get<double>();
  const double gain = best_score_ ? std::abs(score - *best_score_) : std::numeric_limits<double>::infinity();
  const bool better = improves(score);
  evaluations_without_best_ =
      better && gain > settings_.options.early_stopping_threshold ? 0 : evaluations_without_best_ + 1;
  if (better) {
    best_score_ = score;
    best_step_ = step_;
  }
  const auto patience = settings_.options.early_stopping_patience;
  if (patience && evaluations_without_best_ >= *patience) {
    stop_early_ = true;
    log_info("stopping early: {} evaluations without a better {}", *patience, metric);
  }
}

void Trainer::save() {
  if (last_saved_ == step_) return;
  settle(0);
  const CheckpointState state{write_run(), {decoder_.parameters().values(), optimizer_->state()}};
  save_checkpoint(settings_.output, step_, state, [this](const fs::path& folder) {
    settings_.save_model(folder);
    write_file_atomically(folder / "trainer_state.json", trainer_state().text());
  });
  last_saved_ = step_;
  if (settings_.on_saved) settings_.on_saved(step_);
  if (!settings_.options.save_total_limit) return;
  std::optional<fs::path> best;
  if (best_score_ && settings_.options.load_best_model_at_end)
    best = settings_.output / fmt::format("checkpoint-{}", best_step_);
  rotate_checkpoints(settings_.output, *settings_.options.save_total_limit, best);
}

TrainerState Trainer::trainer_state() const {
  const TrainOptions& o = settings_.options;
  TrainerState state{step_,
                     total_,
                     o.logging_steps,
                     o.eval_steps.value_or(o.logging_steps),
                     o.save_steps,
                     o.per_device_train_batch_size,
                     input_tokens_,
                     epoch_reached(),
                     o.num_train_epochs,
                     log_history_,
                     {},
                     {},
                     {}};
  if (best_score_) {
    state.best_metric = *best_score_;
    state.best_global_step = best_step_;
    const fs::path checkpoint = settings_.output / fmt::format("checkpoint-{}", best_step_);
    const bool saves = o.save_strategy != Strategy::kNo || o.load_best_model_at_end;
    if (fs::exists(checkpoint) || (saves && best_step_ == step_)) state.best_model_checkpoint = checkpoint.string();
  }
  return state;
}

void Trainer::load_best() {
  if (!best_score_ || best_step_ == step_) return;
  const fs::path best = settings_.output / fmt::format("checkpoint-{}", best_step_);
  if (const auto problem = checkpoint_problem(best)) {
    log_warning("{}: {}; the best model is lost, the last one is kept instead", best.string(), *problem);
    return;
  }
  decoder_.parameters().values().copy_(load_checkpoint(best).optimizer.values);
  decoder_.parameters().refresh_compute();
  for (const Json& line : log_history_) {
    if (line.at("step") == best_step_ && line.contains("eval_loss")) eval_loss_ = line.at("eval_loss").get<double>();
  }
  kept_step_ = best_step_;
  log_info("the best model is that of step {}: {} {:.6g}", best_step_, settings_.options.metric_for_best_model,
           *best_score_);
}

TrainingResult Trainer::result() const {
  TrainingResult result;
  result.steps = step_;
  result.epochs = epoch_reached();
  result.train_loss = step_ == 0 ? 0.0 : loss_sum_ / static_cast<double>(step_);
  result.eval_loss = eval_loss_;
  result.kept_step = kept_step_.value_or(step_);
  result.tokens = tokens_;
  result.input_tokens = input_tokens_;
  result.seconds = seconds_;
  result.tokens_per_second = seconds_ > 0.0 ? static_cast<double>(input_tokens_) / seconds_ : 0.0;
  result.memory_allocated_gib = peak_gib();
  result.memory_used_gib = used_gib_;
  return result;
}

}  // namespace qlora
