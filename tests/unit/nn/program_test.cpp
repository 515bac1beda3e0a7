// What a compiled program makes again, what memory it takes, and that neither changes a bit of the result.
#include "qlora/nn/program.h"

#include <limits>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "qlora/nn/embedding.h"
#include "qlora/nn/gated_activation.h"
#include "qlora/nn/head.h"
#include "qlora/nn/program_cache.h"
#include "qlora/nn/projection.h"

namespace qlora {
namespace {

constexpr std::int64_t kHidden = 8, kWide = 24, kVocabulary = 13, kTokens = 16, kLayers = 3;

// Layers of norm, projection, activation and projection with a residual: the MLP half of a decoder.
class Programs : public testing::Test {
 protected:
  // `plain`: projections without an adapter.
  explicit Programs(std::set<std::string> plain = {})
      : plain_(std::move(plain)), store_(at::kCPU, at::kDouble, WeightPolicy{}) {
    at::manual_seed(5);
    blocks_.emplace_back().add(
        std::make_shared<Embedding>(Embedding::Spec{weight("embedding", {kVocabulary, kHidden}), kHidden, 1.0, {}},
                                    parameters_, at::kDouble),
        {});
    for (int i = 0; i < kLayers; ++i) add_layer("layer" + std::to_string(i) + ".");
    RmsNorm norm(weight("norm", {kHidden}), kHidden, 1e-6, at::kDouble);
    const auto head = std::make_shared<const Head>(
        norm, Head::Spec{weight("head", {kVocabulary, kHidden}), kVocabulary}, parameters_, at::kDouble);
    blocks_.emplace_back().add(std::make_shared<LossHead>(head), {Block::kInput});
    parameters_.allocate(at::kCPU, at::kDouble);
    for (const ParameterInfo& info : parameters_.infos()) {
      const at::Tensor places = at::arange(info.size(), at::kDouble) + info.size();
      value(info.name).copy_(at::sin(places).view(info.shape));
    }
    parameters_.refresh_compute();
  }

  at::Tensor value(const std::string& name) const { return parameters_.value(*parameters_.find(name)); }

  Weight weight(const std::string& name, const Shape& shape) {
    const Weight weight = Weight::frozen(store_, store_.add({{name, shape, false}}));
    store_.put(name, at::randn(shape, at::kDouble));
    return weight;
  }

  std::shared_ptr<Operation> projection(const std::string& name, std::int64_t in, std::int64_t out, bool residual) {
    if (plain_.contains(name)) {
      Projection::Spec bare{in, out, weight(name, {out, in}), {}, {}, residual};
      return std::make_shared<Projection>(std::move(bare), parameters_, at::kDouble);
    }
    LoraSegment adapter;
    adapter.out = out;
    adapter.rank = 2;
    adapter.a = parameters_.add(name + ".a", {2, in}, true);
    adapter.b = parameters_.add(name + ".b", {out, 2}, true);
    Projection::Spec spec{in, out, weight(name, {out, in}), {}, {adapter}, residual};
    return std::make_shared<Projection>(std::move(spec), parameters_, at::kDouble);
  }

  void add_layer(const std::string& name) {
    Block& block = blocks_.emplace_back();
    const auto normed = block.add(
        std::make_shared<RmsNorm>(weight(name + "norm", {kHidden}), kHidden, 1e-6, at::kDouble), {Block::kInput});
    const auto wide = block.add(projection(name + "up", kHidden, 2 * kWide, false), {normed});
    const auto active = block.add(std::make_shared<GatedActivation>(Activation::kSilu, kWide, at::kDouble), {wide});
    block.add(projection(name + "down", kWide, kHidden, true), {active, Block::kInput});
  }

  Program compiled(Keep keep, Pass pass = Pass::kTraining) const {
    return Program(blocks_, {kTokens, kTokens}, pass, uniform_keep(blocks_, keep));
  }

  static Batch batch_of(std::int64_t tokens) {
    Batch batch;
    batch.ids = at::arange(tokens, at::kLong).remainder(kVocabulary);
    batch.positions = at::arange(tokens, at::kLong);
    batch.row_bounds = {0, tokens};
    batch.row_keys = {0};
    batch.labelled = at::arange(tokens - 1, at::kLong);
    batch.targets = batch.ids.slice(0, 1);
    batch.training = true;
    return batch;
  }

  double run(Program& program) {
    const Batch batch = batch_of(kTokens);
    arena_ = at::empty({program.arena_bytes()}, at::kByte);
    std::vector<at::Tensor> host;
    for (const std::int64_t bytes : program.host_pieces()) host.push_back(at::empty({bytes}, at::kByte));
    program.bind(arena_, host);
    program.run(batch);
    batch_ = batch;
    return program.output().item<double>();
  }

  std::set<std::string> plain_;
  WeightStore store_;
  ParameterSet parameters_;
  std::vector<Block> blocks_;
  at::Tensor arena_;
  Batch batch_;
};

int count(const std::string& text, const std::string& part) {
  int n = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

TEST_F(Programs, MakeAgainOnlyWhatBackwardReads) {
  const int forward = 2 + 4 * kLayers;
  const Program all = compiled(Keep::kAll);
  EXPECT_EQ(all.recomputed_count(), 0);
  EXPECT_EQ(count(all.describe(), "forward "), forward);
  const Program expensive = compiled(Keep::kExpensive);
  EXPECT_EQ(expensive.recomputed_count(), 2 * kLayers) << "the norm and the activation";
  const Program input = compiled(Keep::kInputOnly);
  EXPECT_EQ(input.recomputed_count(), 3 * kLayers) << "all but the last projection, whose output nobody reads";
  EXPECT_EQ(count(input.describe(), "forward  projection"), 3 * kLayers);
}

TEST_F(Programs, SkipBackwardOfWhatHasNoGradient) {
  const std::string text = compiled(Keep::kAll).describe();
  EXPECT_EQ(count(text, "backward embedding"), 0);
  EXPECT_EQ(count(text, "backward loss_head"), 1);
  EXPECT_EQ(count(text, "backward projection"), 2 * kLayers);
  EXPECT_EQ(count(text, "backward rms_norm"), kLayers - 1) << "below the first adapter nothing is trained";
}

TEST_F(Programs, KeepingLessTakesLessMemoryAndChangesNoBit) {
  Program all = compiled(Keep::kAll);
  const double loss = run(all);
  const at::Tensor gradients = parameters_.grads().clone();
  EXPECT_GT(gradients.abs().min().item<double>(), 0.0);
  std::int64_t bytes = all.arena_bytes();
  for (const Keep keep : {Keep::kExpensive, Keep::kInputOnly, Keep::kInputOnHost}) {
    Program program = compiled(keep);
    EXPECT_LT(program.arena_bytes(), bytes);
    bytes = program.arena_bytes();
    parameters_.zero_grad();
    EXPECT_EQ(run(program), loss);
    EXPECT_TRUE(parameters_.grads().equal(gradients));
  }
  EXPECT_LT(compiled(Keep::kAll, Pass::kForward).arena_bytes(), bytes);
}

// The lines about copies and their blocks, with one line for each run of others between them.
std::vector<std::string> copies_in(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) {
    const std::size_t at = line.find("block") + 6;
    const std::string what = line.substr(at, 3) + line.substr(at + 3, 10);
    const bool copies = count(what, "host") + count(what, "arrived") > 0;
    const std::string entry = copies ? what : "...";
    if (lines.empty() || lines.back() != entry) lines.push_back(entry);
  }
  return lines;
}

TEST_F(Programs, SendInputsToTheHostBesideTheirBlockAndFetchThemOneBlockAhead) {
  const Program program = compiled(Keep::kInputOnHost);
  const std::int64_t input = kTokens * kHidden * static_cast<std::int64_t>(sizeof(double));
  EXPECT_EQ(program.host_pieces(), std::vector<std::int64_t>(kLayers, input));
  EXPECT_THAT(
      copies_in(program.describe()),
      testing::ElementsAre("...", "  1 to host  ", "...", "  1 arrived  ", "  2 to host  ", "...", "  2 arrived  ",
                           "  3 to host  ", "...", "  3 arrived  ", "...", "  3 from host", "...", "  3 arrived  ",
                           "  2 from host", "...", "  2 arrived  ", "  1 from host", "...", "  1 arrived  ", "..."));
  EXPECT_TRUE(compiled(Keep::kInputOnly).host_pieces().empty());
  EXPECT_TRUE(compiled(Keep::kInputOnHost, Pass::kForward).host_pieces().empty());
}

TEST_F(Programs, AddGradientsUpOverRuns) {
  Program program = compiled(Keep::kAll);
  run(program);
  const at::Tensor once = parameters_.grads().clone();
  run(program);
  EXPECT_LT((parameters_.grads() - 2.0 * once).abs().max().item<double>(), 1e-12);
}

TEST_F(Programs, NameTheFirstInstructionThatIsNotFinite) {
  Program program = compiled(Keep::kAll);
  run(program);
  EXPECT_EQ(program.first_non_finite(batch_), "");
  value("layer1.up.b")[3][1] = std::numeric_limits<double>::infinity();
  parameters_.refresh_compute();
  EXPECT_THAT(program.first_non_finite(batch_), testing::HasSubstr("forward of projection in block 2"));
}

class AllAdapted : public Programs {
 public:
  void TestBody() override {}
  using Programs::compiled;
  using Programs::parameters_;
  using Programs::run;
  using Programs::value;
};

class SomeAdapted : public Programs {
 protected:
  SomeAdapted() : Programs({"layer1.down", "layer2.up"}) {}
};

// A plain projection's backward pass does not read its input, so has no buffer of it to write the gradient over.
TEST_F(SomeAdapted, PassGradientsThroughPlainProjections) {
  AllAdapted all;
  for (const char* name : {"layer1.down.b", "layer2.up.b"}) all.value(name).zero_();
  Program reference = all.compiled(Keep::kAll);
  const double loss = all.run(reference);
  for (const Keep keep : {Keep::kAll, Keep::kExpensive, Keep::kInputOnly, Keep::kInputOnHost}) {
    parameters_.zero_grad();
    Program program = compiled(keep);
    EXPECT_NEAR(run(program), loss, 1e-12);
    for (const ParameterInfo& info : parameters_.infos()) {
      const at::Tensor expected = all.parameters_.grad(*all.parameters_.find(info.name));
      const at::Tensor ours = parameters_.grad(*parameters_.find(info.name));
      EXPECT_LT((ours - expected).abs().max().item<double>(), 1e-12) << info.name;
      EXPECT_GT(expected.abs().max().item<double>(), 1e-6) << info.name;
    }
  }
}

TEST_F(Programs, RefuseAnArenaThatIsTooSmall) {
  Program program = compiled(Keep::kAll);
  EXPECT_ANY_THROW(program.bind(at::empty({program.arena_bytes() - 1}, at::kByte)));
  Program sends = compiled(Keep::kInputOnHost);
  const std::vector<at::Tensor> two(2, at::empty({1 << 20}, at::kByte));
  EXPECT_ANY_THROW(sends.bind(at::empty({sends.arena_bytes()}, at::kByte), two)) << "of three pieces";
}

// Both buffers of a cache grow with the batches, and programs that were bound before follow.
TEST_F(Programs, OfACacheShareHostMemoryThatGrows) {
  at::Tensor gradients;
  const auto loss_of = [&](Keep keep, const std::vector<std::int64_t>& sizes) {
    parameters_.zero_grad();
    ProgramCache cache(blocks_, Pass::kTraining, uniform_keep(blocks_, keep), at::kCPU);
    std::vector<double> losses;
    for (const std::int64_t tokens : sizes) {
      const Batch batch = batch_of(tokens);
      Program& program = cache.program_for(batch);
      program.run(batch);
      losses.push_back(program.output().item<double>());
    }
    EXPECT_EQ(cache.bindings(), 2);
    gradients = parameters_.grads().clone();
    return losses;
  };
  const std::vector<std::int64_t> sizes = {8, 16, 8};
  const std::vector<double> losses = loss_of(Keep::kAll, sizes);
  const at::Tensor kept = gradients;
  EXPECT_EQ(loss_of(Keep::kInputOnHost, sizes), losses);
  EXPECT_TRUE(gradients.equal(kept));
}

}  // namespace
}  // namespace qlora
