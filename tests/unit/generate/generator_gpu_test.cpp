// Generation on the GPU: graphs change nothing, kernels and NF4 products little, batches nothing but near-ties.
#include <algorithm>
#include <functional>
#include <numeric>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "qlora/generate/generator.h"
#include "qlora/generate/row_batch.h"
#include "qlora/nn/kernels.h"

#include "support/gpu.h"
#include "support/tiny_model.h"

namespace qlora {
namespace {

using Ids = std::vector<std::int32_t>;

class GeneratorGpu : public GpuTest {
 protected:
  static ModelConfig config() {
    ModelConfig c = tiny_config("qwen2");
    c.vocabulary = 500;
    c.hidden = 256;
    c.intermediate = 512;
    c.head_dim = 64;
    c.max_positions = 512;
    return c;
  }

  static std::unique_ptr<Decoder> decoder(at::Device device, Dtype dtype, const WeightPolicy& policy) {
    auto made =
        std::make_unique<Decoder>(config(), std::make_shared<WeightStore>(device, dtype, policy), TrainingPlan{});
    at::manual_seed(6);
    for (const std::string& name : made->missing()) {
      const Shape& shape = made->store().member(name).shape;
      made->put(name, shape.size() > 1 ? at::randn(shape) * 0.15 : at::ones(shape));
    }
    return made;
  }

  static std::vector<Ids> prompts() {
    std::vector<Ids> all;
    for (std::int32_t i = 0; i < 40; ++i) {
      Ids prompt;
      for (std::int32_t t = 0; t < 40; ++t) prompt.push_back((t * 13 + i % 3) % 500);
      for (std::int32_t t = 0; t < 5 + 7 * (i % 11); ++t) prompt.push_back((t * 31 + i * 17) % 500);
      all.push_back(prompt);
    }
    return all;
  }

  static std::vector<Ids> generate(Decoder& decoder, std::int64_t batch_size, bool graphs, Generator::Counts* counts,
                                   double temperature = 0.0) {
    Generator::Settings settings;
    settings.options.max_new_tokens = 40;
    settings.options.batch_size = batch_size;
    settings.options.temperature = temperature;
    settings.options.top_p = 0.9;
    settings.stop_ids = {7, 8, 9};
    settings.graphs = graphs;
    Generator generator(decoder, settings);
    std::vector<Ids> answers;
    for (const Answer& answer : generator.generate(prompts())) answers.push_back(answer.ids);
    if (counts != nullptr) *counts = generator.counts();
    return answers;
  }

  // How many answers are another's.
  static std::ptrdiff_t differing(const std::vector<Ids>& a, const std::vector<Ids>& b) {
    return std::inner_product(a.begin(), a.end(), b.begin(), std::ptrdiff_t{0}, std::plus<>(), std::not_equal_to<>());
  }
};

TEST_F(GeneratorGpu, GraphsChangeNothing) {
  for (const bool quantize : {false, true}) {
    for (const double temperature : {0.0, 0.8}) {
      const auto model = decoder(at::kCUDA, at::kBFloat16, {quantize, true, 0});
      for (const std::int64_t batch_size : {1, 6, 24}) {
        Generator::Counts with, without;
        const auto want = generate(*model, batch_size, false, &without, temperature);
        EXPECT_EQ(generate(*model, batch_size, true, &with, temperature), want) << batch_size;
        EXPECT_GT(with.graphs, 0);
        EXPECT_EQ(without.graphs, 0);
        EXPECT_GT(with.shared_tokens, 0);
        EXPECT_EQ(with.steps, without.steps);
      }
    }
  }
}

TEST_F(GeneratorGpu, GivesWhatTheCpuGives) {
  const auto cpu = decoder(at::kCPU, at::kFloat, {});
  const auto want = generate(*cpu, 16, false, nullptr);
  const auto wide = decoder(at::kCUDA, at::kFloat, {});
  EXPECT_LE(differing(generate(*wide, 16, true, nullptr), want), 2) << "in float32, near-ties aside";
  const auto narrow = decoder(at::kCUDA, at::kBFloat16, {});
  const auto in_bf16 = generate(*narrow, 16, true, nullptr);
  std::ptrdiff_t first_differs = 0;
  for (std::size_t i = 0; i < want.size(); ++i)
    first_differs += !want[i].empty() && !in_bf16[i].empty() && want[i][0] != in_bf16[i][0];
  EXPECT_LE(first_differs, 4) << "of the first tokens in bfloat16";
  const gpu::AtenForms aten;
  const auto plain = decoder(at::kCUDA, at::kFloat, {});
  EXPECT_LE(differing(generate(*plain, 16, true, nullptr), want), 2) << "ATen forms";
}

TEST_F(GeneratorGpu, AnswersMoreRowsAtATimeThanACpuOrBesideTraining) {
  const auto made = decoder(at::kCUDA, at::kBFloat16, {});
  GenerateOptions options;
  EXPECT_EQ(answer_slots(*made, options, 1000, 100), kMostAnswersOnGpu);
  EXPECT_EQ(answer_slots(*made, options, 90, 100), 90);
  options.beside_training = true;
  EXPECT_EQ(answer_slots(*made, options, 1000, 100), kMostAnswers);
  options.batch_size = 100;
  EXPECT_EQ(answer_slots(*made, options, 1000, 100), 100);
}

}  // namespace
}  // namespace qlora
