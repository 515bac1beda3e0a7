// Log-likelihoods of choices are those of whole rows, whatever is shared, cut or batched.
#include "qlora/generate/choice_scorer.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "qlora/core/error.h"
#include "qlora/generate/row_batch.h"

#include "support/tiny_model.h"

namespace qlora {
namespace {

using Ids = std::vector<std::int32_t>;

Ids some_ids(std::size_t count, std::int32_t step) {
  Ids ids;
  for (std::size_t i = 0; i < count; ++i)
    ids.push_back(static_cast<std::int32_t>(i * static_cast<std::size_t>(step) + 3) % 31);
  return ids;
}

Ids joined(Ids a, const Ids& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

class Choices : public testing::TestWithParam<const char*> {
 protected:
  Choices() : decoder_(config(), std::make_shared<WeightStore>(at::kCPU, at::kDouble, WeightPolicy{}), TrainingPlan{}) {
    at::manual_seed(4);
    for (const std::string& name : decoder_.missing())
      decoder_.put(name, at::randn(decoder_.store().member(name).shape, at::kDouble));
    const Ids shots = some_ids(20, 7);
    questions_ = {{joined(shots, {5, 6, 7}), {{1}, {2}, {3}, {4}}},
                  {joined(shots, {5, 9, 11, 12, 13, 14}), {{1}, {2, 8}, {2, 9, 9}, {4}}},
                  {joined(shots, {30}), {{7}, {7}}},
                  {joined(shots, {5, 9}), {{4}}}};
  }

  static ModelConfig config() {
    ModelConfig c = std::string(GetParam()) == "llama" ? tiny_config() : tiny_architecture(GetParam());
    c.max_positions = 64;
    return c;
  }

  // The whole row, from its logits.
  double referee(const Ids& context, const Ids& choice) {
    const Ids row = joined(context, choice);
    const auto& blocks = decoder_.blocks(HeadKind::kLogits);
    ProgramCache programs(blocks, Pass::kForward, uniform_keep(blocks, Keep::kAll), at::kCPU);
    std::vector<PredictedToken> all;
    for (std::size_t i = 0; i < row.size(); ++i) all.push_back({static_cast<std::int64_t>(i), -1});
    const Batch batch = make_row_batch({{row, 0, 0, all}}, nullptr, at::kCPU);
    Program& program = programs.program_for(batch);
    program.run(batch);
    const at::Tensor log_p = at::log_softmax(program.output().to(at::kDouble), 1);
    double sum = 0.0;
    for (std::size_t i = 0; i < choice.size(); ++i) {
      const auto before = static_cast<std::int64_t>(context.size() + i) - 1;
      sum += log_p[before][choice[i]].item<double>();
    }
    return sum;
  }

  void expect_scores(std::optional<std::int64_t> batch_size = std::nullopt) {
    std::int64_t done = 0;
    const auto scores = ChoiceScorer(decoder_, batch_size).score(questions_, [&](std::int64_t d) { done = d; });
    EXPECT_EQ(done, static_cast<std::int64_t>(questions_.size()));
    for (std::size_t q = 0; q < questions_.size(); ++q) {
      for (std::size_t c = 0; c < questions_[q].choices.size(); ++c) {
        EXPECT_NEAR(scores[q][c], referee(questions_[q].context, questions_[q].choices[c]), 1e-9)
            << "question " << q << ", choice " << c;
      }
    }
  }

  Decoder decoder_;
  std::vector<ChoiceQuestion> questions_;
};

TEST_P(Choices, EqualWholeRowsBehindASharedBeginning) {
  for (const std::optional<std::int64_t> batch_size : {std::optional<std::int64_t>(), {1}, {2}})
    expect_scores(batch_size);
}

TEST_P(Choices, EqualWholeRowsWithoutOne) {
  questions_[2].context = some_ids(9, 5);
  expect_scores();
  questions_.resize(1);
  expect_scores();
}

TEST_P(Choices, AContextThatIsTooLongLosesItsBeginning) {
  const Ids longer = some_ids(70, 11);
  questions_.push_back({longer, {{1}, {2}}});
  const auto scores = ChoiceScorer(decoder_, std::nullopt).score(questions_);
  const Ids cut(longer.end() - 64, longer.end());
  EXPECT_NEAR(scores[4][1], referee(cut, {2}), 1e-9);
  EXPECT_NEAR(scores[0][1], referee(questions_[0].context, {2}), 1e-9);
}

TEST_P(Choices, RefusesEmptyTexts) {
  ChoiceScorer scorer(decoder_, std::nullopt);
  EXPECT_TRUE(scorer.score({}).empty());
  EXPECT_THROW(scorer.score({{{}, {{1}}}}), DataError);
  EXPECT_THROW(scorer.score({{{1}, {{1}, {}}}}), DataError);
}

INSTANTIATE_TEST_SUITE_P(All, Choices, testing::Values("llama", "gemma2", "lfm2", "mistral", "qwen3_moe"));

}  // namespace
}  // namespace qlora
