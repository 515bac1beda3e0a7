// NF4 on the CPU, in GB/s of bytes read and written, beside memcpy of the same amount.
#include <cstring>
#include <random>
#include <vector>

#include <benchmark/benchmark.h>

#include "qlora/core/float16.h"
#include "qlora/core/parallel.h"
#include "qlora/quant/nf4.h"

namespace {

using namespace qlora;

constexpr std::int64_t kCount = 4096 * 2048;

const std::vector<std::uint16_t>& weights() {
  static const std::vector<std::uint16_t> values = [] {
    std::mt19937 engine(1);
    std::normal_distribution<float> normal(0.0F, 0.02F);
    std::vector<std::uint16_t> result(kCount);
    for (auto& value : result) value = float_to_bf16(normal(engine));
    return result;
  }();
  return values;
}

const Nf4Tensor& quantized(bool nested) {
  static const HostTensor tensor{ElementType::kBF16, {4096, 2048}, bytes_of(weights())};
  static const Nf4Tensor plain = nf4_quantize(tensor, false);
  static const Nf4Tensor doubly = nf4_quantize(tensor, true);
  return nested ? doubly : plain;
}

void count_bytes(benchmark::State& state, std::int64_t bytes) {
  state.SetBytesProcessed(state.iterations() * bytes);
  state.counters["threads"] = parallel_threads();
}

void memcpy_bf16(benchmark::State& state) {
  std::vector<std::uint16_t> out(kCount);
  for (auto _ : state) {
    parallel_for(kCount, 64 * 1024, [&](std::int64_t begin, std::int64_t end) {
      std::memcpy(out.data() + begin, weights().data() + begin, static_cast<std::size_t>(end - begin) * 2);
    });
    benchmark::ClobberMemory();
  }
  count_bytes(state, kCount * 4);
}

void quantize_bf16(benchmark::State& state) {
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(nf4_code_bytes(kCount)));
  std::vector<float> absmax(static_cast<std::size_t>(nf4_blocks(kCount)));
  for (auto _ : state) nf4_quantize(weights().data(), ElementType::kBF16, kCount, codes.data(), absmax.data());
  count_bytes(state, kCount * 2 + kCount / 2 + kCount / 16);
}

template <ElementType kType>
void dequantize(benchmark::State& state) {
  const Nf4Tensor& tensor = quantized(state.range(0) != 0);
  std::vector<std::uint8_t> out(kCount * element_size(kType));
  for (auto _ : state) {
    nf4_dequantize(tensor.view(), kType, out.data());
    benchmark::ClobberMemory();
  }
  const std::int64_t scales = state.range(0) != 0 ? kCount / 64 : kCount / 16;
  count_bytes(state, kCount / 2 + scales + static_cast<std::int64_t>(out.size()));
}

BENCHMARK(memcpy_bf16)->UseRealTime();
BENCHMARK(quantize_bf16)->UseRealTime();
BENCHMARK(dequantize<ElementType::kBF16>)->ArgName("nested")->Arg(0)->Arg(1)->UseRealTime();
BENCHMARK(dequantize<ElementType::kF16>)->ArgName("nested")->Arg(1)->UseRealTime();
BENCHMARK(dequantize<ElementType::kF32>)->ArgName("nested")->Arg(1)->UseRealTime();

}  // namespace

BENCHMARK_MAIN();
