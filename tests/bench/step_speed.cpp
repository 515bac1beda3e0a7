// The speed of training steps over random weights in a real model's shape, made on the spot: packed rows, LoRA r 16 on
// all linears, NF4.
//   step_speed SHAPE [key=value ...]   prints one JSON line: tokens/s, ms a step, losses, gradient norms
// Keys: tokens (of a micro-batch, 4096), row (2048), accumulation (4), steps (6), dropout (0), graphs (1), cache (GiB
// that may stay dequantized, 0), fp8 (1: frozen products in it), dtype (bf16 | fp32), aten (1: without the kernels),
// head_norms (1: of each query and key head, as Qwen3 has them), codes (random: NF4 codes drawn as such, never wider
// weights), profile (1: time by kernel of one more step), deterministic (1). What is kept where: keep (all | expensive
// | input | host), embedding (device | host), optimizer (device | paged); or plan (auto | recompute) chooses all three
// as a run would, under max_memory_gib where that is given. dry_run=1 prints the plan alone, and needs no GPU.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include "qlora/models/decoder.h"
#include "qlora/nn/kernels.h"
#include "qlora/nn/program_runner.h"
#include "qlora/quant/nf4.h"
#include "qlora/train/device_batch.h"
#include "qlora/train/memory.h"
#include "qlora/train/optimizer.h"

#include "model_shapes.h"

namespace qlora {
namespace {

// Codes of a weight whose values are about 0.02 wide.
Nf4Weight random_codes(const Shape& shape, at::Device device) {
  const auto bytes = at::TensorOptions().device(device).dtype(at::kByte);
  Nf4Weight weight;
  weight.shape = shape;
  const std::int64_t blocks = nf4_blocks(weight.count());
  weight.codes = at::randint(256, {nf4_code_bytes(weight.count())}, bytes);
  weight.absmax_codes = at::randint(256, {blocks}, bytes);
  weight.nested_absmax = at::full({nf4_nested_blocks(blocks)}, 0.01, bytes.dtype(at::kFloat));
  weight.nested_map = at::linspace(-1.0, 1.0, 256, bytes.dtype(at::kFloat));
  weight.nested_offset = 0.05F;
  return weight;
}

std::unique_ptr<Decoder> make_decoder(const ModelConfig& config, at::Device device, Dtype dtype,
                                      const Options& options) {
  const double dropout = std::stod(option(options, "dropout", "0"));
  const bool planned = number(options, "dry_run", 0) != 0;
  TrainingPlan plan;
  plan.lora = [dropout](const std::string& module) {
    const bool linear = module.ends_with("_proj") || module.find(".feed_forward.") != std::string::npos;
    return linear ? std::optional(LoraSettings{16, 2.0, dropout}) : std::nullopt;
  };
  plan.seed = 1;
  const bool fp8 = number(options, "fp8", 0) != 0;
  const WeightPolicy policy{true, true, number(options, "cache", 0) << 30, {}, fp8, planned};
  auto store = std::make_shared<WeightStore>(device, dtype, policy);
  auto decoder = std::make_unique<Decoder>(config, store, plan);
  if (planned) return decoder;
  for (const std::string& name : decoder->missing()) {
    const Shape& shape = store->member(name).shape;
    const auto on_device = at::TensorOptions().device(device);
    if (store->member(name).quantize && option(options, "codes", "") == "random") {
      store->put(name, random_codes(shape, device));
    } else {
      decoder->put(name, shape.size() > 1 ? at::randn(shape, on_device) * 0.02 : at::ones(shape, on_device));
    }
  }
  decoder->initialize_adapters(3, /*gaussian=*/false);
  return decoder;
}

// Rows as long as those of packed_rows(), for a step's micro-batches.
PreparedSet rows_to_plan(std::int64_t tokens, std::int64_t row) {
  EncodedRow encoded;
  encoded.ids.resize(static_cast<std::size_t>(row), 1);
  encoded.labelled.resize(static_cast<std::size_t>(row), 1);
  const auto count = static_cast<std::size_t>(tokens / row);
  return PreparedSet::from_rows(std::vector<EncodedRow>(count, encoded), std::vector<Json>(count, Json()),
                                Json::object());
}

// What is kept where, and the bytes that this is planned to take.
RunPlan plan_of(const Decoder& decoder, const Options& options, std::int64_t tokens, std::int64_t row) {
  TrainOptions train;
  train.gradient_checkpointing = option(options, "plan", "auto") == "auto" ? Checkpointing::kAuto : Checkpointing::kOn;
  if (options.contains("max_memory_gib")) train.max_memory_gib = std::stod(options.at("max_memory_gib"));
  // One micro-batch, which then stays as it is.
  return plan_run(decoder, train, rows_to_plan(tokens, row), BatchOptions{tokens / row, 1, false, 0, false, 0}, 1);
}

// As the options have it, without a plan.
RunPlan chosen(const Decoder& decoder, const Options& options) {
  const std::string kept = option(options, "keep", "all");
  const std::map<std::string, Keep> policies{
      {"all", Keep::kAll}, {"expensive", Keep::kExpensive}, {"input", Keep::kInputOnly}, {"host", Keep::kInputOnHost}};
  RunPlan plan;
  plan.keep = uniform_keep(decoder.blocks(HeadKind::kLoss), policies.at(kept));
  plan.pages_optimizer = option(options, "optimizer", "device") == "paged";
  if (option(options, "embedding", "device") == "host") plan.host.embedding = decoder.movable_embedding_bytes();
  return plan;
}

PackedBatch packed_rows(std::int64_t tokens, std::int64_t row, std::int64_t vocabulary, std::int64_t salt) {
  PackedBatch batch;
  batch.bounds = {0};
  for (std::int64_t t = 0; t < tokens; ++t) {
    batch.ids.push_back(static_cast<std::int32_t>((t * 7919 + salt * 104729 + t * t % 4093) % vocabulary));
    batch.positions.push_back(static_cast<std::int32_t>(t % row));
    if ((t + 1) % row == 0 || t + 1 == tokens) {
      batch.rows.push_back(static_cast<std::int32_t>(batch.rows.size()));
      batch.bounds.push_back(static_cast<std::int32_t>(t + 1));
    }
  }
  for (std::int64_t t = 0; t + 1 < tokens; ++t) {
    if ((t + 1) % row == 0) continue;
    batch.targets.push_back(static_cast<std::int32_t>(t));
    batch.target_ids.push_back(batch.ids[static_cast<std::size_t>(t) + 1]);
  }
  return batch;
}

// One more run under Kineto: microseconds and launches by kernel.
void profile(const std::function<void()>& run) {
  using namespace torch::autograd::profiler;
  using torch::profiler::impl::ActivityType;
  const torch::profiler::impl::ProfilerConfig config(torch::profiler::impl::ProfilerState::KINETO);
  const std::set<ActivityType> activities{ActivityType::CPU, ActivityType::CUDA};
  prepareProfiler(config, activities);
  enableProfiler(config, activities);
  run();
  const auto result = disableProfiler();
  std::map<std::string, std::pair<double, int>> kernels;
  double total = 0.0;
  for (const KinetoEvent& event : result->events()) {
    if (event.deviceType() != at::kCUDA) continue;
    auto& [microseconds, count] = kernels[event.name()];
    microseconds += static_cast<double>(event.durationNs()) / 1e3;
    total += static_cast<double>(event.durationNs()) / 1e3;
    ++count;
  }
  std::vector<std::pair<double, std::string>> sorted;
  sorted.reserve(kernels.size());
  for (const auto& [name, sum] : kernels) sorted.emplace_back(sum.first, name);
  std::sort(sorted.rbegin(), sorted.rend());
  fmt::print("kernels: {:.1f} ms\n", total / 1e3);
  for (std::size_t i = 0; i < std::min<std::size_t>(sorted.size(), 40); ++i) {
    fmt::print("{:10.0f} us {:5d} x {}\n", sorted[i].first, kernels[sorted[i].second].second,
               sorted[i].second.substr(0, 110));
  }
}

void measure(const std::string& name, const Options& options) {
  using Clock = std::chrono::steady_clock;
  const bool dry = number(options, "dry_run", 0) != 0;
  const at::Device device = dry || at::hasCUDA() ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU);
  const Dtype dtype = option(options, "dtype", "bf16") == "bf16" ? at::kBFloat16 : at::kFloat;
  const std::int64_t tokens = number(options, "tokens", 4096);
  const std::int64_t accumulation = number(options, "accumulation", 4);
  const std::int64_t steps = number(options, "steps", 6);
  ModelConfig config = shape_of(name);
  config.head_norms = config.head_norms || number(options, "head_norms", 0) != 0;
  if (number(options, "deterministic", 0) != 0) {
    setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
    at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
    at::globalContext().setDeterministicFillUninitializedMemory(false);
  }
  std::unique_ptr<gpu::AtenForms> aten;
  if (number(options, "aten", 0) != 0) aten = std::make_unique<gpu::AtenForms>();
  at::manual_seed(7);
  const auto begin = Clock::now();
  const auto decoder = make_decoder(config, device, dtype, options);
  const std::int64_t row = number(options, "row", 2048);
  const RunPlan plan = options.contains("plan") ? plan_of(*decoder, options, tokens, row) : chosen(*decoder, options);
  if (options.contains("plan")) {
    fmt::print("{} {}: {}; on the host {}, {} blocks' inputs{}\n", name, option(options, "max_memory_gib", ""),
               plan.bytes.text(), plan.host.text(), std::count(plan.keep.begin(), plan.keep.end(), Keep::kInputOnHost),
               plan.lean ? ", lean" : "");
  }
  if (dry) return;
  if (plan.host.embedding > 0) decoder->move_embedding_to_host();
  ProgramCache programs(decoder->blocks(HeadKind::kLoss), Pass::kTraining, plan.keep, device);
  ProgramRunner runner(programs, decoder->store(), number(options, "graphs", 1) != 0);
  AdamWSettings settings;
  settings.paged = plan.pages_optimizer;
  AdamW optimizer(decoder->parameters(), settings);
  // What the weights were made from counts no longer.
  if (device.is_cuda()) {
    c10::getDeviceAllocator(device.type())->emptyCache();
    c10::getDeviceAllocator(device.type())->resetPeakStats(device.index());
  }

  const auto step = [&](std::int64_t s) {
    decoder->parameters().zero_grad();
    at::Tensor loss = at::zeros({}, at::TensorOptions().device(device).dtype(at::kDouble));
    for (std::int64_t m = 0; m < accumulation; ++m) {
      const PackedBatch rows = packed_rows(tokens, row, config.vocabulary, s * 16 + m);
      const auto targets = static_cast<std::int64_t>(rows.targets.size()) * accumulation;
      Batch batch = to_device_batch(rows, targets, static_cast<std::uint64_t>(s), true, device);
      batch.lean = plan.lean;
      loss.add_(runner.run(batch).squeeze(0));
    }
    const at::Tensor norm = optimizer.step(1e-3, 1.0, device.is_cpu() ? loss : loss.to(at::kFloat));
    return at::stack({loss, norm.to(at::kDouble)});
  };
  std::vector<at::Tensor> numbers;
  for (std::int64_t s = 0; s < 2; ++s) numbers.push_back(step(s));  // makes plans, algorithms, graphs
  numbers.back().cpu();
  const auto start = Clock::now();
  for (std::int64_t s = 2; s < 2 + steps; ++s) numbers.push_back(step(s));
  numbers.back().cpu();
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();

  std::vector<std::string> given, losses, norms;
  for (const auto& [key, value] : options) given.push_back(fmt::format("{}={}", key, value));
  for (const at::Tensor& n : numbers) {
    losses.push_back(fmt::format("{:.4f}", n[0].item<double>()));
    norms.push_back(fmt::format("{:.4f}", n[1].item<double>()));
  }
  const auto gib = [&](std::int64_t (*bytes)(at::Device)) {
    return device.is_cuda() ? static_cast<double>(bytes(device)) / (1 << 30) : 0.0;
  };
  const double planned = static_cast<double>(plan.bytes.total()) / (1 << 30);
  fmt::print(
      R"({{"shape": "{}", "options": "{}", "tokens_per_second": {:.0f}, "step_ms": {:.2f}, "peak_gib": {:.3f}, )"
      R"("used_gib": {:.3f}, "planned_gib": {:.3f}, "set_up_seconds": {:.1f}, "graphs": {}, "loss": [{}], "grad_norm": [{}]}})"
      "\n",
      name, fmt::join(given, " "), static_cast<double>(tokens * accumulation * steps) / seconds,
      1e3 * seconds / static_cast<double>(steps), gib(peak_allocated), gib(used_memory), planned,
      std::chrono::duration<double>(start - begin).count(), runner.graph_count(), fmt::join(losses, ", "),
      fmt::join(norms, ", "));
  std::fflush(stdout);
  if (number(options, "profile", 0) != 0) profile([&] { step(99).cpu(); });
}

}  // namespace
}  // namespace qlora

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fputs("usage: step_speed SHAPE [key=value ...]\n", stderr);
    return 2;
  }
  qlora::measure(argv[1], qlora::options_of(argc, argv));
  return 0;
}
