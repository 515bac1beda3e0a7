// Decoding with a cache gives what the whole row gives, in any batch, and ends where it must.
#include "qlora/generate/generator.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "qlora/core/error.h"

#include "support/tiny_model.h"

namespace qlora {
namespace {

using Ids = std::vector<std::int32_t>;

class Generation : public testing::Test {
 protected:
  Generation()
      : decoder_(tiny_config(), std::make_shared<WeightStore>(at::kCPU, at::kDouble, WeightPolicy{}), TrainingPlan{}) {
    at::manual_seed(2);
    for (const std::string& name : decoder_.missing())
      decoder_.put(name, at::randn(decoder_.store().member(name).shape, at::kDouble));
  }

  std::vector<Answer> generate(Generator::Settings settings) {
    return Generator(decoder_, settings).generate(prompts_);
  }

  static Generator::Settings settings_of(std::int64_t tokens, std::int64_t batch_size) {
    Generator::Settings settings;
    settings.options.max_new_tokens = tokens;
    settings.options.batch_size = batch_size;
    return settings;
  }

  // Greedy, the whole row again for each token.
  Ids recomputed(Ids row, std::int64_t tokens) {
    const auto& blocks = decoder_.blocks(HeadKind::kLogits);
    Ids answer;
    for (std::int64_t i = 0; i < tokens; ++i) {
      ProgramCache programs(blocks, Pass::kForward, uniform_keep(blocks, Keep::kAll), at::kCPU);
      const auto length = static_cast<std::int64_t>(row.size());
      const std::int64_t bucket = token_bucket(length);
      Batch batch;
      batch.ids = at::zeros({bucket}, at::kLong);
      batch.ids.narrow(0, 0, length).copy_(at::tensor(row));
      batch.positions = at::arange(bucket, at::kLong);
      batch.row_bounds = {0, length};
      batch.row_keys = {0};
      batch.max_length = length;
      batch.bounds = at::tensor(batch.row_bounds).to(at::kInt);
      batch.labelled = at::full({1}, length - 1, at::kLong);
      Program& program = programs.program_for(batch);
      program.run(batch);
      row.push_back(static_cast<std::int32_t>(program.output()[0].argmax().item<std::int64_t>()));
      answer.push_back(row.back());
    }
    return answer;
  }

  Decoder decoder_;
  std::vector<Ids> prompts_{
      {1, 2, 3}, {7}, {9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 11, 12, 13, 14, 15, 16, 17, 18}, {5, 5}, {30, 1, 2}};
};

TEST_F(Generation, EqualsTheWholeRowInAnyBatch) {
  std::vector<Ids> want;
  for (const Ids& prompt : prompts_) want.push_back(recomputed(prompt, 20));
  for (const std::int64_t batch_size : {1, 2, 3, 64}) {
    const std::vector<Answer> answers = generate(settings_of(20, batch_size));
    for (std::size_t i = 0; i < want.size(); ++i) {
      EXPECT_EQ(answers[i].ids, want[i]) << "prompt " << i << ", batch size " << batch_size;
      EXPECT_FALSE(answers[i].ended);
    }
  }
}

// Prompts of several groups that begin alike, in float32: shared or not, in any batch and in any order, every answer is
// made of the same bits. A penalty keeps the answers apart.
TEST(GenerationInFloat32, IsTheSameBitsInAnyBatch) {
  ModelConfig config = tiny_config();
  config.hidden = 64;
  config.head_dim = 16;
  config.max_positions = 128;
  Decoder decoder(config, std::make_shared<WeightStore>(at::kCPU, at::kFloat, WeightPolicy{}), TrainingPlan{});
  at::manual_seed(4);
  for (const std::string& name : decoder.missing()) decoder.put(name, at::randn(decoder.store().member(name).shape));
  std::vector<Ids> prompts;
  for (std::int32_t i = 0; i < 23; ++i) {
    Ids prompt;
    for (std::int32_t t = 0; t < 20; ++t) prompt.push_back(t % 7);                       // all
    for (std::int32_t t = 0; t < 18; ++t) prompt.push_back((t * (i % 4) + i % 4) % 31);  // one of four groups
    for (std::int32_t t = 0; t <= i; ++t) prompt.push_back((t * t + i) % 31);
    prompts.push_back(prompt);
  }
  const auto generate = [&](const std::vector<Ids>& some, std::int64_t batch_size, bool shares,
                            Generator::Counts& counts) {
    Generator::Settings settings;
    settings.options.max_new_tokens = 24;
    settings.options.batch_size = batch_size;
    settings.options.repetition_penalty = 1.3;
    settings.shares_prefixes = shares;
    settings.stop_ids = {3};
    Generator generator(decoder, settings);
    std::vector<Ids> answers;
    for (const Answer& answer : generator.generate(some)) answers.push_back(answer.ids);
    counts = generator.counts();
    return answers;
  };
  Generator::Counts counts;
  std::vector<Ids> alone;
  std::int64_t tokens = 0;
  for (const Ids& prompt : prompts) {
    alone.push_back(generate({prompt}, 1, true, counts)[0]);
    tokens += static_cast<std::int64_t>(prompt.size());
    EXPECT_EQ(counts.shared_tokens, 0);
  }
  for (const std::int64_t batch_size : {1, 2, 5, 16, 64}) {
    for (const bool shares : {true, false}) {
      EXPECT_EQ(generate(prompts, batch_size, shares, counts), alone) << batch_size;
      EXPECT_EQ(counts.prompt_tokens + counts.shared_tokens, tokens);
      // All but one begin with 20 tokens, and all but four with 38, that were computed before; in few slots a beginning
      // may be overwritten that another prompt has, too.
      if (shares) {
        EXPECT_GE(counts.shared_tokens, (batch_size > 5 ? 38 : 36) * 19 + 20 * 3) << batch_size;
      } else {
        EXPECT_EQ(counts.shared_tokens, 0);
      }
    }
  }
}

TEST_F(Generation, EndsBeforeAStopTokenAndAfterAStopText) {
  const std::vector<Answer> free = generate(settings_of(20, 3));
  Generator::Settings settings = settings_of(20, 3);
  settings.stop_ids = {free[0].ids[4]};
  const std::vector<Answer> stopped = generate(settings);
  for (std::size_t i = 0; i < prompts_.size(); ++i) {
    const auto end = std::find(free[i].ids.begin(), free[i].ids.end(), settings.stop_ids[0]);
    EXPECT_EQ(stopped[i].ids, Ids(free[i].ids.begin(), end));
    EXPECT_EQ(stopped[i].ended, end != free[i].ids.end());
  }
  settings = settings_of(20, 3);
  settings.stops = [](std::span<const std::int32_t> answer) { return answer.size() == 3; };
  for (const Answer& answer : generate(settings)) {
    EXPECT_EQ(answer.ids.size(), 3U);
    EXPECT_TRUE(answer.ended);
  }
}

TEST_F(Generation, TellsOfEachTokenAndOfEachAnswerOnce) {
  Generator::Settings settings = settings_of(6, 2);
  std::vector<Ids> heard(prompts_.size());
  std::vector<std::size_t> complete;
  settings.on_token = [&](std::size_t prompt, std::int32_t id) { heard[prompt].push_back(id); };
  settings.on_answer = [&](std::size_t prompt, const Answer&) { complete.push_back(prompt); };
  const std::vector<Answer> answers = generate(settings);
  for (std::size_t i = 0; i < prompts_.size(); ++i) EXPECT_EQ(heard[i], answers[i].ids);
  EXPECT_THAT(complete, testing::UnorderedElementsAre(0, 1, 2, 3, 4));
}

TEST_F(Generation, RefusesPromptsThatCannotBe) {
  EXPECT_TRUE(Generator(decoder_, settings_of(4, 1)).generate({}).empty());
  prompts_ = {{1}, {}};
  EXPECT_THROW(generate(settings_of(4, 1)), DataError);
  prompts_ = {Ids(60, 1)};
  EXPECT_EQ(generate(settings_of(4, 1))[0].ids.size(), 4U) << "the last position is still one";
  EXPECT_THROW(generate(settings_of(5, 1)), DataError);
}

}  // namespace
}  // namespace qlora
