// The speed of generation over random weights in a real model's shape, made on the spot, beside what it must take at
// least.
//   generate_speed SHAPE [key=value ...]   prints one JSON line a way: output tokens/s, counts, ratios
// Keys: prompts (1034), shortest (60) and longest (300) prompt, new (tokens of each answer at most, 64), ragged (1:
// answers of 1 to `new` tokens), batch (64), beginning (tokens that all prompts have in common, 0), nf4 (1), cache (GiB
// that may stay dequantized, 0), graphs (1), dtype (bf16 | fp32), runs (2, the last counts), ways:
//   new     as `qlora eval` generates
//   fixed   batches that end together and share nothing
//   matvec  on a GPU, with matvec=1: a layer's products of few rows from the codes, beside dense ones
//   floor   on a GPU: the best separate products of a step's shapes and the bytes of cache that a step reads at the
//           rate of a copy, times the steps; all prompts' products at the rate of a large one
#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "qlora/generate/generator.h"
#include "qlora/models/decoder.h"
#include "qlora/nn/gemm.h"

#include "model_shapes.h"

namespace qlora {
namespace {

using Ids = std::vector<std::int32_t>;

double seconds_of(const std::function<void()>& run) {
  const auto start = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::unique_ptr<Decoder> make_decoder(const ModelConfig& config, at::Device device, Dtype dtype,
                                      const WeightPolicy& policy) {
  auto decoder =
      std::make_unique<Decoder>(config, std::make_shared<WeightStore>(device, dtype, policy), TrainingPlan{});
  at::manual_seed(7);
  for (const std::string& name : decoder->missing()) {
    const Shape& shape = decoder->store().member(name).shape;
    const auto options = at::TensorOptions().device(device);
    decoder->put(name, shape.size() > 1 ? at::randn(shape, options) * 0.02 : at::ones(shape, options));
  }
  return decoder;
}

class Measurement {
 public:
  Measurement(const std::string& name, const Options& options)
      : name_(name),
        options_(options),
        device_(at::hasCUDA() ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU)),
        dtype_(option(options, "dtype", device_.is_cuda() ? "bf16" : "fp32") == "bf16" ? at::kBFloat16 : at::kFloat),
        config_(shape_of(name)),
        policy_{number(options, "nf4", 1) != 0, true, number(options, "cache", 0) << 30},
        decoder_(make_decoder(config_, device_, dtype_, policy_)),
        new_tokens_(number(options, "new", 64)),
        batch_(number(options, "batch", 64)) {
    make_prompts();
  }

  void run() {
    const double ours = measure("new", [&] { return generate(prompts_, 0, true); });
    if (number(options_, "fixed", device_.is_cpu() ? 1 : 0) != 0) {
      const double fixed = measure("fixed", [&] {
        std::int64_t tokens = 0;
        for (std::size_t begin = 0; begin < prompts_.size(); begin += static_cast<std::size_t>(batch_)) {
          const std::size_t end = std::min(prompts_.size(), begin + static_cast<std::size_t>(batch_));
          tokens += generate({prompts_.begin() + static_cast<std::ptrdiff_t>(begin),
                              prompts_.begin() + static_cast<std::ptrdiff_t>(end)},
                             begin, false);
        }
        return tokens;
      });
      fmt::print(R"({{"new_over_fixed": {:.3f}}})"
                 "\n",
                 fixed / ours);
    }
    if (number(options_, "matvec", 0) != 0) compare_products();
    if (device_.is_cuda()) {
      const double least = floor_seconds();
      fmt::print(R"({{"floor_tokens_per_second": {:.0f}, "ratio": {:.3f}}})"
                 "\n",
                 static_cast<double>(tokens_) / least, least / ours);
    }
    std::fflush(stdout);
  }

 private:
  void make_prompts() {
    const std::int64_t shortest = number(options_, "shortest", 60);
    const std::int64_t longest = number(options_, "longest", 300);
    const std::int64_t beginning = number(options_, "beginning", 0);
    for (std::int64_t p = 0; p < number(options_, "prompts", 1034); ++p) {
      Ids prompt;
      const std::int64_t length = shortest + p * 7919 % (longest - shortest + 1);
      for (std::int64_t t = 0; t < length; ++t) {
        const std::int64_t salt = t < beginning ? 0 : p + 1;
        prompt.push_back(static_cast<std::int32_t>((t * 7919 + salt * 104729 + t * t % 4093) % config_.vocabulary));
      }
      prompts_.push_back(std::move(prompt));
      limits_.push_back(number(options_, "ragged", 0) != 0 ? 1 + p * 104729 % new_tokens_ : new_tokens_);
    }
  }

  // Tokens generated for some prompts, the first of which is number `first`.
  std::int64_t generate(const std::vector<Ids>& prompts, std::size_t first, bool shares) {
    Generator::Settings settings;
    settings.options.max_new_tokens = new_tokens_;
    settings.options.batch_size = batch_;
    settings.graphs = number(options_, "graphs", 1) != 0;
    settings.shares_prefixes = shares;
    std::size_t current = 0;
    settings.on_token = [&](std::size_t prompt, std::int32_t) { current = first + prompt; };
    settings.stops = [&](std::span<const std::int32_t> answer) {
      return static_cast<std::int64_t>(answer.size()) >= limits_[current];
    };
    Generator generator(*decoder_, settings);
    std::int64_t tokens = 0;
    for (const Answer& answer : generator.generate(prompts)) tokens += static_cast<std::int64_t>(answer.ids.size());
    counts_ = generator.counts();
    return tokens;
  }

  double measure(const char* way, const std::function<std::int64_t()>& generate) {
    double seconds = 0.0;
    for (std::int64_t r = 0; r < number(options_, "runs", 2); ++r) seconds = seconds_of([&] { tokens_ = generate(); });
    fmt::print(R"({{"shape": "{}", "way": "{}", "tokens_per_second": {:.0f}, "seconds": {:.3f}, "tokens": {}, )"
               R"("prompt_tokens": {}, "shared_tokens": {}, "prefills": {}, "steps": {}, "graphs": {}}})"
               "\n",
               name_, way, static_cast<double>(tokens_) / seconds, seconds, tokens_, counts_.prompt_tokens,
               counts_.shared_tokens, counts_.prefills, counts_.steps, counts_.graphs);
    std::fflush(stdout);
    return seconds;
  }

  // Seconds of one call, of which many are queued.
  static double seconds_each(int count, const std::function<void(int)>& call) {
    const at::Tensor mark = at::zeros({1}, at::TensorOptions().device(at::kCUDA));
    for (int i = 0; i < 3; ++i) call(i);
    mark.cpu();
    return seconds_of([&] {
             for (int i = 0; i < count; ++i) call(i);
             mark.cpu();
           }) /
           count;
  }

  at::Tensor random(std::int64_t rows, std::int64_t columns) const {
    return at::randn({rows, columns}, at::TensorOptions().device(device_).dtype(dtype_));
  }

  // [rows, in] times [in, out], each time another weight, so that none is in a cache.
  double product_seconds(std::int64_t rows, std::int64_t in, std::int64_t out) const {
    constexpr std::int64_t kApart = 200 << 20;
    const std::int64_t count = std::max<std::int64_t>(2, kApart / (in * out * 2));
    const at::Tensor weights = random(count * out, in);
    const at::Tensor x = random(rows, in);
    const at::Tensor y = random(rows, out);
    return seconds_each(100, [&](int i) { gemm(y, x, weights.narrow(0, i % count * out, out).t()); });
  }

  // in and out of a layer's products.
  std::vector<std::pair<std::int64_t, std::int64_t>> products() const {
    const ModelConfig& c = config_;
    const std::int64_t query = c.heads * c.head_dim;
    return {{c.hidden, query + 2 * c.kv_heads * c.head_dim},
            {query, c.hidden},
            {c.hidden, 2 * c.intermediate},
            {c.intermediate, c.hidden}};
  }

  void compare_products() const {
    for (const auto& [in, out] : products()) {
      constexpr int kCount = 12;  // so that none is in a cache
      WeightStore store(device_, dtype_, {true, true, 0});
      std::vector<WeightStore::Group> groups;
      for (int i = 0; i < kCount; ++i) {
        const std::string name = std::to_string(i);
        groups.push_back(store.add({{name, {out, in}, true}}));
        store.put(name, random(out, in));
      }
      for (const std::int64_t rows : {1, 2, 4, 8}) {
        const at::Tensor x = random(rows, in);
        const at::Tensor y = random(rows, out);
        const double from_codes = seconds_each(200, [&](int i) {
          TORCH_CHECK(store.multiply(groups[static_cast<std::size_t>(i % kCount)], x, {}, {}, y), "no kernel");
        });
        fmt::print(R"({{"product": [{}, {}, {}], "from_codes_us": {:.2f}, "dense_us": {:.2f}}})"
                   "\n",
                   rows, in, out, 1e6 * from_codes, 1e6 * product_seconds(rows, in, out));
      }
    }
  }

  double floor_seconds() const {
    const ModelConfig& c = config_;
    const std::int64_t keys = c.kv_heads * c.head_dim;
    const at::Tensor from = random(1 << 14, 1 << 15);
    const at::Tensor to = at::empty_like(from);
    const double bytes_a_second =
        2.0 * static_cast<double>(from.nbytes()) / seconds_each(10, [&](int) { to.copy_(from); });
    const bool from_codes = policy_.quantize && policy_.dequantize_cache_bytes == 0 && batch_ <= 8;
    double step = product_seconds(batch_, c.hidden, c.vocabulary);
    double weights = 0.0;  // of the layers
    for (const auto& [in, out] : products()) {
      weights += static_cast<double>(c.layers * in * out);
      if (!from_codes) step += static_cast<double>(c.layers) * product_seconds(batch_, in, out);
    }
    constexpr double kBytesOfCode = 0.5 + 1.0 / 64;
    if (from_codes) step += weights * kBytesOfCode / bytes_a_second;
    double held = 0.0;  // tokens that steps read of the cache
    for (std::size_t p = 0; p < prompts_.size(); ++p) {
      const auto answer = static_cast<double>(limits_[p]);
      held += answer * (static_cast<double>(prompts_[p].size()) + answer / 2);
    }
    const double cache = held * static_cast<double>(2 * keys * c.layers) * 2.0 / bytes_a_second;
    const at::Tensor a = random(8192, 8192), b = random(8192, 8192), y = random(8192, 8192);
    const double flops = 2.0 * 8192.0 * 8192.0 * 8192.0 / seconds_each(10, [&](int) { gemm(y, a, b.t()); });
    const double prefill = 2.0 * weights * static_cast<double>(counts_.prompt_tokens) / flops;
    const double steps = static_cast<double>(tokens_) / static_cast<double>(batch_) * step;
    fmt::print(R"({{"copy_tb_a_second": {:.2f}, "product_tflops": {:.0f}, "step_ms": {:.3f}, "steps_seconds": {:.3f}, )"
               R"("cache_seconds": {:.3f}, "prefill_seconds": {:.3f}}})"
               "\n",
               bytes_a_second / 1e12, flops / 1e12, step * 1e3, steps, cache, prefill);
    return steps + cache + prefill;
  }

  std::string name_;
  Options options_;
  at::Device device_;
  Dtype dtype_;
  ModelConfig config_;
  WeightPolicy policy_;
  std::unique_ptr<Decoder> decoder_;
  std::int64_t new_tokens_, batch_;
  std::vector<Ids> prompts_;
  std::vector<std::int64_t> limits_;  // tokens of each answer
  std::int64_t tokens_ = 0;
  Generator::Counts counts_;
};

}  // namespace
}  // namespace qlora

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fputs("usage: generate_speed SHAPE [key=value ...]\n", stderr);
    return 2;
  }
  qlora::Measurement(argv[1], qlora::options_of(argc, argv)).run();
  return 0;
}
