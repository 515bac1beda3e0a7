// NF4 on the GPU, in GB/s of bytes read and written, beside a device-to-device copy in the same run. Inputs rotate
// through more memory than the L2 cache holds.
#include <cstdio>
#include <vector>

#include <ATen/Context.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/randn.h>
#include <benchmark/benchmark.h>
#include <c10/core/Event.h>

#include "qlora/quant/nf4_weight.h"

namespace {

using namespace qlora;

constexpr std::int64_t kColumns = 4096;
const at::Device kGpu(at::kCUDA, 0);

at::TensorOptions on_gpu(at::ScalarType type) {
  return at::TensorOptions().device(kGpu).dtype(type);
}

// How many tensors of so many bytes are more than 256 MiB.
std::size_t rotation(std::int64_t bytes) {
  return static_cast<std::size_t>((std::int64_t{256} << 20) / bytes + 1);
}

// An iteration is kRepeats times work(i), each of `bytes`; timed by events of the stream.
constexpr int kRepeats = 20;

template <typename Work>
void measure(benchmark::State& state, std::int64_t bytes, Work work) {
  const c10::impl::VirtualGuardImpl guard(at::kCUDA);
  c10::Event begin(at::kCUDA, c10::EventFlag::BACKEND_DEFAULT), end(at::kCUDA, c10::EventFlag::BACKEND_DEFAULT);
  for (int i = 0; i < kRepeats; ++i) work(i);
  double milliseconds = 0.0;
  for (auto _ : state) {
    begin.record(guard.getStream(kGpu));
    for (int i = 0; i < kRepeats; ++i) work(i);
    end.record(guard.getStream(kGpu));
    end.synchronize();
    const double elapsed = begin.elapsedTime(end);
    state.SetIterationTime(elapsed / 1e3);
    milliseconds += elapsed;
  }
  const auto times = static_cast<double>(kRepeats * state.iterations());
  state.counters["us"] = milliseconds * 1e3 / times;
  state.counters["GB/s"] = static_cast<double>(bytes) * times / (milliseconds * 1e6);
}

void copy_bf16(benchmark::State& state) {
  const std::int64_t bytes = 2 * kColumns * state.range(0);
  std::vector<at::Tensor> from, to;
  for (std::size_t i = 0; i < rotation(bytes); ++i) {
    from.push_back(at::empty({state.range(0), kColumns}, on_gpu(at::kBFloat16)));
    to.push_back(at::empty_like(from.back()));
  }
  measure(state, 2 * bytes, [&](int i) {
    const std::size_t at = static_cast<std::size_t>(i) % from.size();
    to[at].copy_(from[at], /*non_blocking=*/true);
  });
}

template <at::ScalarType kType>
void dequantize(benchmark::State& state) {
  const std::int64_t rows = state.range(0), pitch = kColumns + state.range(1);
  std::vector<Nf4Weight> weights;
  std::vector<at::Tensor> outs;
  const at::Tensor values = at::randn({rows, kColumns}, on_gpu(at::kBFloat16));
  const at::Tensor empty = at::empty({rows, pitch}, on_gpu(kType));
  for (std::size_t i = 0; i < rotation(static_cast<std::int64_t>(empty.nbytes())); ++i) {
    weights.push_back(nf4_quantize(values, kGpu, /*nested=*/true, "w"));
    outs.push_back(at::empty_like(empty).narrow(1, 0, kColumns));
  }
  const auto written = static_cast<std::int64_t>(outs[0].numel() * static_cast<std::int64_t>(empty.element_size()));
  measure(state, weights[0].bytes() + written, [&](int i) {
    const std::size_t at = static_cast<std::size_t>(i) % weights.size();
    nf4_dequantize(weights[at], outs[at]);
  });
}

void quantize_bf16(benchmark::State& state) {
  const at::Tensor values = at::randn({state.range(0), kColumns}, on_gpu(at::kBFloat16));
  const std::int64_t bytes = static_cast<std::int64_t>(values.nbytes()) + values.numel() / 2;
  measure(state, bytes, [&](int) { nf4_quantize(values, kGpu, /*nested=*/true, "w"); });
}

BENCHMARK(copy_bf16)->Arg(14336)->Arg(4096)->Arg(1024)->UseManualTime();
BENCHMARK(dequantize<at::kBFloat16>)
    ->ArgNames({"rows", "gap"})
    ->Args({14336, 0})
    ->Args({4096, 0})
    ->Args({1024, 0})
    ->Args({14336, 16})
    ->UseManualTime();
BENCHMARK(dequantize<at::kHalf>)->ArgNames({"rows", "gap"})->Args({14336, 0})->UseManualTime();
BENCHMARK(dequantize<at::kFloat>)->ArgNames({"rows", "gap"})->Args({14336, 0})->UseManualTime();
BENCHMARK(quantize_bf16)->Arg(14336)->UseManualTime();

}  // namespace

int main(int argc, char** argv) {
  if (!at::hasCUDA() || at::detail::getCUDAHooks().deviceCount() == 0) {
    std::puts("no GPU that this build can use");
    return 0;
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
