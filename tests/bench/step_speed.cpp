// The speed of training steps over random weights in a real model's shape, made on the spot: packed rows, LoRA r 16 on
// all linears, NF4.
//   step_speed SHAPE [key=value ...]   prints one JSON line: tokens/s, ms a step, losses, gradient norms
// Keys: tokens (of a micro-batch, 4096), row (2048), accumulation (4), steps (6), dropout (0), graphs (1), cache (GiB
// that may stay dequantized, 0), fp8 (1: frozen products in it), keep (all | expensive | input), dtype (bf16 | fp32),
// aten (1: without the kernels), head_norms (1: of each query and key head, as Qwen3 has them), profile (1: time by
// kernel of one more step).
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>

#include <ATen/ATen.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include "qlora/models/decoder.h"
#include "qlora/nn/kernels.h"
#include "qlora/nn/program_runner.h"
#include "qlora/train/device_batch.h"
#include "qlora/train/optimizer.h"

#include "model_shapes.h"

namespace qlora {
namespace {

std::unique_ptr<Decoder> make_decoder(const ModelConfig& config, at::Device device, Dtype dtype, double dropout,
                                      std::int64_t cache_gib, bool fp8) {
  TrainingPlan plan;
  plan.lora = [dropout](const std::string& module) {
    return module.ends_with("_proj") ? std::optional(LoraSettings{16, 2.0, dropout}) : std::nullopt;
  };
  plan.seed = 1;
  auto store = std::make_shared<WeightStore>(device, dtype, WeightPolicy{true, true, cache_gib << 30, {}, fp8});
  auto decoder = std::make_unique<Decoder>(config, store, plan);
  for (const std::string& name : decoder->missing()) {
    const Shape& shape = store->member(name).shape;
    const auto options = at::TensorOptions().device(device);
    decoder->put(name, shape.size() > 1 ? at::randn(shape, options) * 0.02 : at::ones(shape, options));
  }
  decoder->initialize_adapters(3, /*gaussian=*/false);
  return decoder;
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
  const at::Device device = at::hasCUDA() ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU);
  const Dtype dtype = option(options, "dtype", "bf16") == "bf16" ? at::kBFloat16 : at::kFloat;
  const std::int64_t tokens = number(options, "tokens", 4096);
  const std::int64_t accumulation = number(options, "accumulation", 4);
  const std::int64_t steps = number(options, "steps", 6);
  ModelConfig config = shape_of(name);
  config.head_norms = number(options, "head_norms", 0) != 0;
  std::unique_ptr<gpu::AtenForms> aten;
  if (number(options, "aten", 0) != 0) aten = std::make_unique<gpu::AtenForms>();
  at::manual_seed(7);
  const auto begin = Clock::now();
  const auto decoder = make_decoder(config, device, dtype, std::stod(option(options, "dropout", "0")),
                                    number(options, "cache", 0), number(options, "fp8", 0) != 0);
  const auto& blocks = decoder->blocks(HeadKind::kLoss);
  const std::string kept = option(options, "keep", "all");
  const Keep keep = kept == "all" ? Keep::kAll : kept == "expensive" ? Keep::kExpensive : Keep::kInputOnly;
  ProgramCache programs(blocks, Pass::kTraining, uniform_keep(blocks, keep), device);
  ProgramRunner runner(programs, decoder->store(), number(options, "graphs", 1) != 0);
  AdamW optimizer(decoder->parameters(), {});

  const auto step = [&](std::int64_t s) {
    decoder->parameters().zero_grad();
    at::Tensor loss = at::zeros({}, at::TensorOptions().device(device).dtype(at::kDouble));
    for (std::int64_t m = 0; m < accumulation; ++m) {
      const PackedBatch rows = packed_rows(tokens, number(options, "row", 2048), config.vocabulary, s * 16 + m);
      const auto targets = static_cast<std::int64_t>(rows.targets.size()) * accumulation;
      loss.add_(runner.run(to_device_batch(rows, targets, static_cast<std::uint64_t>(s), true, device)).squeeze(0));
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
  for (const auto& [key, value] : options) given.push_back(key + "=" + value);
  for (const at::Tensor& n : numbers) {
    losses.push_back(fmt::format("{:.4f}", n[0].item<double>()));
    norms.push_back(fmt::format("{:.4f}", n[1].item<double>()));
  }
  double peak = 0.0;
  if (device.is_cuda()) {
    peak = static_cast<double>(
               c10::getDeviceAllocator(device.type())->getDeviceStats(device.index()).allocated_bytes[0].peak) /
           (1 << 30);
  }
  fmt::print(R"({{"shape": "{}", "options": "{}", "tokens_per_second": {:.0f}, "step_ms": {:.2f}, "peak_gib": {:.2f}, )"
             R"("set_up_seconds": {:.1f}, "graphs": {}, "loss": [{}], "grad_norm": [{}]}})"
             "\n",
             name, fmt::join(given, " "), static_cast<double>(tokens * accumulation * steps) / seconds,
             1e3 * seconds / static_cast<double>(steps), peak, std::chrono::duration<double>(start - begin).count(),
             runner.graph_count(), fmt::join(losses, ", "), fmt::join(norms, ", "));
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
