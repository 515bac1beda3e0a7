// Each operation's result and gradients against the same formula in plain ATen under torch::autograd, float64.
#include <cmath>
#include <functional>
#include <limits>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/variable.h>

#include "qlora/nn/attention.h"
#include "qlora/nn/embedding.h"
#include "qlora/nn/gated_activation.h"
#include "qlora/nn/head.h"
#include "qlora/nn/head_norm.h"
#include "qlora/nn/kv_cache.h"
#include "qlora/nn/residual.h"
#include "qlora/nn/rope.h"
#include "qlora/nn/short_convolution.h"

namespace qlora {
namespace {

using Tensors = std::vector<at::Tensor>;
using Formula = std::function<at::Tensor(const Tensors& in, const Tensors& parameters)>;

constexpr std::int64_t kTail = 4;

Batch batch_of(const std::vector<std::int64_t>& lengths) {
  Batch batch;
  Tensors positions;
  batch.row_bounds = {0};
  for (const std::int64_t length : lengths) {
    positions.push_back(at::arange(length, at::kLong));
    batch.row_bounds.push_back(batch.row_bounds.back() + length);
    batch.max_length = std::max(batch.max_length, length);
  }
  positions.push_back(at::zeros({kTail}, at::kLong));
  batch.positions = at::cat(positions);
  batch.bounds = at::tensor(batch.row_bounds).to(at::kInt);
  batch.training = true;
  return batch;
}

class Operations : public testing::Test {
 protected:
  Operations() { at::manual_seed(3); }

  Weight parameter(const std::string& name, const Shape& shape) {
    const ParameterSet::Id id = parameters_.add(name, shape, true);
    return Weight::trained(parameters_, id, id);
  }

  void fill_parameters() {
    parameters_.allocate(at::kCPU, at::kDouble);
    at::Tensor values = parameters_.values();
    values.copy_(at::randn(values.sizes(), at::kDouble));
    parameters_.refresh_compute();
  }

  // How the input's gradient arrives: in a buffer of its own, over the input itself, or on top of another.
  enum class Way { kApart, kOverInput, kAdded };

  // Runs forward and backward as a program would; the tail's gradients are zero.
  void run(Operation& operation, const Batch& batch, const Tensors& inputs, Way way) {
    const OperationTraits traits = operation.traits();
    const OperationPlan plan = operation.plan({batch.positions.size(0), 0});
    OperationViews v;
    for (const at::Tensor& input : inputs) v.in.push_back(input.clone());
    v.out = traits.in_place ? v.in[0] : at::full(plan.output, kNan, plan.dtype);
    for (const BufferSpec& spec : plan.buffers) v.buffers.push_back(at::full(spec.shape, kNan, spec.dtype));
    operation.forward(batch, v);
    out_ = v.out.clone();
    v.d_out = d_out_.clone();
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const bool is_d_out = (traits.in_place && i == 0) || traits.pass_through == static_cast<int>(i);
      const bool over = way == Way::kOverInput && i == 0;
      const bool added = way == Way::kAdded && !(traits.in_place && i == 0);
      v.accumulate.push_back(added);
      v.d_in.push_back(added      ? at::ones_like(v.in[i])
                       : is_d_out ? v.d_out
                       : over     ? v.in[i]
                                  : at::full_like(v.in[i], kNan));
      if (!traits.backward_reads_input[i] && !over) v.in[i] = at::Tensor();
    }
    if (!traits.backward_reads_output) v.out = at::Tensor();
    if (!parameters_.empty()) parameters_.zero_grad();
    operation.backward(batch, v);
    d_in_ = v.d_in;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      if (v.accumulate[i]) d_in_[i] = d_in_[i] - 1.0;
    }
  }

  void expect_equal(Operation& operation, const Batch& batch, const Tensors& inputs, const Formula& formula) {
    const std::int64_t real = batch.row_bounds.back();
    Tensors in, parameters;
    for (const at::Tensor& input : inputs) in.push_back(input.clone().set_requires_grad(true));
    for (const ParameterInfo& info : parameters_.infos()) {
      parameters.push_back(parameters_.value(*parameters_.find(info.name)).clone().set_requires_grad(true));
    }
    const at::Tensor want = formula(in, parameters);
    d_out_ = at::randn(want.sizes(), at::kDouble);
    d_out_.slice(0, real).zero_();
    Tensors roots = in;
    roots.insert(roots.end(), parameters.begin(), parameters.end());
    const Tensors gradients = torch::autograd::grad({(want * d_out_).sum()}, roots);
    std::vector<Way> ways{Way::kApart, Way::kAdded};
    if (operation.traits().d_in_may_overwrite_input) ways.push_back(Way::kOverInput);
    for (const Way way : ways) {
      run(operation, batch, inputs, way);
      const std::string place = "way " + std::to_string(static_cast<int>(way));
      EXPECT_LT(difference(out_.slice(0, 0, real), want.slice(0, 0, real)), 1e-12) << place;
      for (std::size_t i = 0; i < in.size(); ++i) EXPECT_LT(difference(d_in_[i], gradients[i]), 1e-12) << place << i;
      for (std::size_t i = 0; i < parameters.size(); ++i) {
        const at::Tensor ours = parameters_.grad(static_cast<ParameterSet::Id>(i));
        EXPECT_LT(difference(ours, gradients[in.size() + i]), 1e-12) << place << parameters_.infos()[i].name;
      }
    }
  }

  static double difference(const at::Tensor& ours, const at::Tensor& want) {
    EXPECT_GT(want.abs().max().item<double>(), 0.0) << "says nothing";
    const double worst = (ours - want).abs().max().item<double>() / want.abs().max().item<double>();
    return std::isnan(worst) ? std::numeric_limits<double>::infinity() : worst;
  }

  at::Tensor input(const Batch& batch, std::int64_t columns) const {
    return at::randn({batch.positions.size(0), columns}, at::kDouble);
  }

  static constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  ParameterSet parameters_;
  at::Tensor out_, d_out_;
  Tensors d_in_;
};

at::Tensor normed(const at::Tensor& x, const at::Tensor& gain) {
  return x * (x.square().mean(-1, true) + 1e-6).rsqrt() * gain;
}

TEST_F(Operations, RmsNormWithOffset) {
  RmsNorm norm(parameter("weight", {6}), 6, 1e-6, at::kDouble, 1.0);
  fill_parameters();
  const Batch batch = batch_of({5, 2});
  expect_equal(norm, batch, {input(batch, 6)},
               [](const Tensors& in, const Tensors& p) { return normed(in[0], 1.0 + p[0]); });
}

TEST_F(Operations, HeadNorm) {
  for (const double offset : {0.0, 1.0}) {
    parameters_ = {};
    HeadNorm norm({4, 2, 6, parameter("q", {6}), parameter("k", {6}), 1e-6, offset}, at::kDouble);
    fill_parameters();
    const Batch batch = batch_of({5, 2});
    expect_equal(norm, batch, {input(batch, 8 * 6)}, [&](const Tensors& in, const Tensors& p) {
      const at::Tensor heads = in[0].view({-1, 8, 6});
      return at::cat({normed(heads.narrow(1, 0, 4), offset + p[0]), normed(heads.narrow(1, 4, 2), offset + p[1]),
                      heads.narrow(1, 6, 2)},
                     1)
          .reshape({-1, 48});
    });
  }
}

TEST_F(Operations, GatedActivations) {
  for (const Activation f : {Activation::kSilu, Activation::kGeluTanh}) {
    GatedActivation activation(f, 7, at::kDouble);
    const Batch batch = batch_of({5, 2});
    expect_equal(activation, batch, {input(batch, 14)}, [f](const Tensors& in, const Tensors&) {
      const at::Tensor z = in[0].narrow(1, 0, 7);
      const at::Tensor silu = z * at::sigmoid(z);
      const at::Tensor gelu = 0.5 * z * (1.0 + at::tanh(std::sqrt(2.0 / M_PI) * (z + 0.044715 * z.pow(3))));
      return (f == Activation::kSilu ? silu : gelu) * in[0].narrow(1, 7, 7);
    });
  }
}

TEST_F(Operations, Residual) {
  Residual residual(6, 0.3, at::kDouble);
  const Batch batch = batch_of({5, 2});
  expect_equal(residual, batch, {input(batch, 6), input(batch, 6)},
               [](const Tensors& in, const Tensors&) { return in[1] + 0.3 * in[0]; });
}

TEST_F(Operations, EmbeddingWithScale) {
  Embedding embedding({parameter("table", {9, 6}), 6, 2.5, {}}, parameters_, at::kDouble);
  fill_parameters();
  Batch batch = batch_of({5, 2});
  batch.ids = at::arange(batch.positions.size(0), at::kLong).remainder(9);
  expect_equal(embedding, batch, {},
               [&](const Tensors&, const Tensors& p) { return 2.5 * p[0].index_select(0, batch.ids); });
}

TEST_F(Operations, EmbeddingWithAdapter) {
  Embedding::Spec spec{parameter("table", {9, 6}), 6, 2.5, LoraSegment{}};
  spec.adapter->rank = 2;
  spec.adapter->scale = 1.5;
  spec.adapter->a = parameters_.add("a", {2, 9}, true);
  spec.adapter->b = parameters_.add("b", {6, 2}, true);
  fill_parameters();
  Embedding embedding(spec, parameters_, at::kDouble);
  Batch batch = batch_of({5, 2});
  batch.ids = at::arange(batch.positions.size(0), at::kLong).remainder(4);  // some twice
  expect_equal(embedding, batch, {}, [&](const Tensors&, const Tensors& p) {
    const at::Tensor delta = at::matmul(p[2], p[1]).index_select(1, batch.ids).t();
    return 2.5 * (p[0].index_select(0, batch.ids) + 1.5 * delta);
  });
}

// u * alpha / sqrt(length * columns), u of each token's place alone, in training alone.
TEST_F(Operations, EmbeddingWithNoise) {
  Embedding::Spec spec{parameter("table", {9, 6}), 6, 1.0, {}, /*noise=*/3.0, /*seed=*/5};
  fill_parameters();
  Embedding embedding(spec, parameters_, at::kDouble);
  const auto noise_of = [&](const std::vector<std::int64_t>& lengths, std::vector<std::int64_t> keys,
                            std::uint64_t step, bool training) {
    Batch batch = batch_of(lengths);
    batch.ids = at::zeros_like(batch.positions);
    batch.row_keys = std::move(keys);
    batch.step = step;
    batch.training = training;
    OperationViews v;
    v.out = at::empty({batch.positions.size(0), 6}, at::kDouble);
    for (const BufferSpec& b : embedding.plan({batch.positions.size(0), 0}).buffers)
      v.buffers.push_back(at::empty(b.shape, b.dtype));
    embedding.forward(batch, v);
    return v.out - parameters_.value(0)[0];
  };
  const at::Tensor both = noise_of({40, 90}, {0, 1}, 7, true);
  EXPECT_EQ(noise_of({40, 90}, {0, 1}, 7, false).abs().max().item<double>(), 0.0);
  EXPECT_TRUE(both.narrow(0, 0, 40).equal(noise_of({40}, {0}, 7, true).narrow(0, 0, 40)));
  EXPECT_TRUE(both.narrow(0, 40, 90).equal(noise_of({90}, {1}, 7, true).narrow(0, 0, 90)));
  EXPECT_FALSE(both.equal(noise_of({40, 90}, {0, 1}, 8, true)));
  EXPECT_FALSE(both.equal(noise_of({40, 90}, {2, 1}, 7, true)));
  EXPECT_EQ(both.narrow(0, 130, kTail).abs().max().item<double>(), 0.0);
  for (const auto& [begin, length] : {std::pair<std::int64_t, std::int64_t>{0, 40}, {40, 90}}) {
    const double reach = 3.0 / std::sqrt(6.0 * double(length));
    const at::Tensor noise = both.narrow(0, begin, length) / reach;
    EXPECT_LE(noise.abs().max().item<double>(), 1.0);
    EXPECT_GT(noise.abs().max().item<double>(), 0.97);
    EXPECT_NEAR(noise.mean().item<double>(), 0.0, 0.1);
    EXPECT_NEAR(noise.square().mean().item<double>(), 1.0 / 3.0, 0.05);
  }
}

// --- what mixes tokens -----------------------------------------------------------------------------------------------

at::Tensor row_attention(const at::Tensor& qkv, const AttentionShape& s) {
  const std::int64_t length = qkv.size(0);
  const std::int64_t group = s.heads / s.kv_heads;
  const at::Tensor heads = qkv.view({length, s.heads + 2 * s.kv_heads, s.head_dim}).transpose(0, 1);
  const at::Tensor k = heads.narrow(0, s.heads, s.kv_heads).repeat_interleave(group, 0);
  const at::Tensor v = heads.narrow(0, s.heads + s.kv_heads, s.kv_heads).repeat_interleave(group, 0);
  at::Tensor scores = at::matmul(heads.narrow(0, 0, s.heads), k.transpose(1, 2)) * s.scale;
  if (s.softcap > 0.0) scores = at::tanh(scores / s.softcap) * s.softcap;
  at::Tensor hidden = at::zeros({length, length}, at::kDouble);
  for (std::int64_t i = 0; i < length; ++i) {
    for (std::int64_t j = 0; j < length; ++j) {
      if (j > i || (s.window > 0 && i - j >= s.window)) hidden[i][j] = -1e30;
    }
  }
  return at::matmul(at::softmax(scores + hidden, -1), v).transpose(0, 1).reshape({length, s.query_columns()});
}

Formula by_row(const Batch& batch,
               std::function<at::Tensor(const at::Tensor& row, const Tensors& parameters)> formula) {
  return [bounds = batch.row_bounds, formula = std::move(formula)](const Tensors& in, const Tensors& parameters) {
    Tensors rows;
    for (std::size_t s = 0; s + 1 < bounds.size(); ++s) {
      rows.push_back(formula(in[0].slice(0, bounds[s], bounds[s + 1]), parameters));
    }
    rows.push_back(0.0 * formula(in[0].slice(0, bounds.back()), parameters));
    return at::cat(rows);
  };
}

TEST_F(Operations, AttentionWithWindowAndSoftCap) {
  const Batch batch = batch_of({5, 1, 19, 3});
  for (const std::int64_t window : {0, 1, 3, 19, 64}) {
    for (const double softcap : {0.0, 1.5}) {
      const AttentionShape shape{4, 2, 6, 0.7, window, softcap};
      Attention attention(shape, 0, at::kDouble);
      SCOPED_TRACE("window " + std::to_string(window) + ", softcap " + std::to_string(softcap));
      const at::Tensor qkv = input(batch, 8 * 6);
      const Formula formula =
          by_row(batch, [&](const at::Tensor& row, const Tensors&) { return row_attention(row, shape); });
      at::Tensor in = qkv.clone().set_requires_grad(true);
      const at::Tensor want = formula({in}, {});
      d_out_ = at::randn(want.sizes(), at::kDouble);
      d_out_.slice(0, batch.row_bounds.back()).zero_();
      const at::Tensor gradient = torch::autograd::grad({(want * d_out_).sum()}, {in})[0];
      run(attention, batch, {qkv}, Way::kApart);  // it is the only reader of its input, and says so
      EXPECT_LT(difference(out_, want), 1e-12);
      EXPECT_LT(difference(d_in_[0], gradient), 1e-12);
    }
  }
}

// Rows come in parts of several tokens; the slots need be no neighbours.
TEST_F(Operations, AttentionContinuesFromTheCache) {
  for (const std::int64_t window : {0, 3}) {
    for (const double softcap : {0.0, 1.5}) {
      SCOPED_TRACE("window " + std::to_string(window) + ", softcap " + std::to_string(softcap));
      const AttentionShape shape{4, 2, 6, 0.7, window, softcap};
      Attention attention(shape, 0, at::kDouble);
      KvCache cache({{2, 6, 0, 0}}, 4, 12, at::kCPU, at::kDouble);
      const at::Tensor rows = at::randn({2, 12, 48}, at::kDouble);
      const std::vector<std::int64_t> slots{2, 0};
      for (const std::vector<std::int64_t>& lengths :
           {std::vector<std::int64_t>{4, 1}, {3, 2}, {1, 6}, {2, 1}, {2, 2}}) {
        Batch batch = batch_of(lengths);
        batch.cache = &cache;
        batch.cache_slots = slots;
        Tensors parts;
        for (std::size_t r = 0; r < 2; ++r)
          parts.push_back(rows[static_cast<std::int64_t>(r)].narrow(0, cache.length(slots[r]), lengths[r]));
        parts.push_back(at::zeros({kTail, 48}, at::kDouble));
        const at::Tensor in = at::cat(parts);
        OperationViews v;
        v.in = {in};
        v.out = at::empty({in.size(0), 24}, at::kDouble);
        v.buffers = {at::empty({in.size(0), 4}, at::kDouble)};
        attention.forward(batch, v);
        for (std::size_t r = 0; r < 2; ++r) {
          const std::int64_t held = cache.length(slots[r]);
          const at::Tensor want =
              row_attention(rows[static_cast<std::int64_t>(r)].narrow(0, 0, held + lengths[r]), shape);
          EXPECT_LT(difference(v.out.narrow(0, batch.row_bounds[r], lengths[r]), want.slice(0, held)), 1e-12);
          cache.advance(slots[r], lengths[r]);
        }
      }
    }
  }
}

// Blocks of keys that no query of a block sees.
TEST_F(Operations, AttentionWithAWindowMuchShorterThanTheRow) {
  const Batch batch = batch_of({1500});
  const AttentionShape shape{1, 1, 4, 0.5, 5, 0.0};
  Attention attention(shape, 0, at::kDouble);
  const at::Tensor qkv = input(batch, 12);
  d_out_ = at::ones({1504, 4}, at::kDouble);
  run(attention, batch, {qkv}, Way::kApart);
  const at::Tensor last = row_attention(qkv.slice(0, 1480, 1500), shape);
  EXPECT_LT(difference(out_.slice(0, 1490, 1500), last.slice(0, 10)), 1e-12);
  EXPECT_TRUE(at::isfinite(d_in_[0]).all().item<bool>());
}

TEST_F(Operations, RopeOfAPartOfEachHead) {
  const Batch batch = batch_of({5, 1, 19, 3});
  RopeScaling scaling;
  scaling.kind = RopeScaling::Kind::kLongrope;
  scaling.original_max_positions = 5;
  scaling.short_factors = {1.0, 2.0};
  scaling.long_factors = {3.0, 7.0};
  scaling.attention_factor = 1.25;
  Rope rope(std::make_shared<RopeTable>(4, 100.0, scaling, at::kCPU, at::kDouble), 3, 4, at::kDouble, 6);
  const Formula formula = by_row(batch, [&](const at::Tensor& row, const Tensors&) {
    const auto& factors = row.size(0) > 5 ? scaling.long_factors : scaling.short_factors;
    const at::Tensor plain = at::tensor({1.0, std::pow(100.0, -0.5)}, at::kFloat);
    const at::Tensor frequencies = (plain / at::tensor(factors, at::kFloat)).to(at::kDouble);
    const at::Tensor angles = at::outer(at::arange(row.size(0), at::kDouble), frequencies).unsqueeze(1);
    const at::Tensor cos = 1.25 * angles.cos();
    const at::Tensor sin = 1.25 * angles.sin();
    const at::Tensor heads = row.view({row.size(0), 4, 6});
    const at::Tensor x1 = heads.slice(1, 0, 3).slice(2, 0, 2);
    const at::Tensor x2 = heads.slice(1, 0, 3).slice(2, 2, 4);
    const at::Tensor turned = at::cat({x1 * cos - x2 * sin, x2 * cos + x1 * sin, heads.slice(1, 0, 3).slice(2, 4)}, 2);
    return at::cat({turned, heads.slice(1, 3)}, 1).reshape({row.size(0), 24});
  });
  const at::Tensor x = input(batch, 24);
  at::Tensor in = x.clone().set_requires_grad(true);
  const at::Tensor want = formula({in}, {});
  d_out_ = at::randn(want.sizes(), at::kDouble);
  const std::int64_t real = batch.row_bounds.back();
  d_out_.slice(0, real).zero_();
  const at::Tensor gradient = torch::autograd::grad({(want * d_out_).sum()}, {in})[0];
  run(rope, batch, {x}, Way::kApart);
  EXPECT_LT(difference(out_.slice(0, 0, real), want.slice(0, 0, real)), 1e-7) << "frequencies are float32";
  EXPECT_LT(difference(d_in_[0], gradient), 1e-7);
}

class ShortConvolutions : public Operations {
 protected:
  ShortConvolution convolution(std::int64_t length, bool biased) {
    ShortConvolution::Spec spec;
    spec.columns = 5;
    spec.length = length;
    spec.weight = parameter("weight", {5, 1, length});
    if (biased) spec.bias = parameter("bias", {5});
    ShortConvolution operation(spec, at::kDouble);
    fill_parameters();
    return operation;
  }
};

TEST_F(ShortConvolutions, EqualAutograd) {
  const Batch batch = batch_of({5, 1, 19, 2, 3});
  for (const std::int64_t length : {1, 3, 4}) {
    for (const bool biased : {false, true}) {
      SCOPED_TRACE("length " + std::to_string(length));
      parameters_ = {};
      ShortConvolution operation = convolution(length, biased);
      expect_equal(operation, batch, {input(batch, 15)}, by_row(batch, [&](const at::Tensor& row, const Tensors& p) {
                     const at::Tensor u = (row.slice(1, 0, 5) * row.slice(1, 10)).t().unsqueeze(0);
                     const at::Tensor bias = biased ? p[1] : at::Tensor();
                     const at::Tensor sum = at::conv1d(u, p[0], bias, 1, length - 1, 1, 5);
                     return row.slice(1, 5, 10) * sum[0].t().slice(0, 0, row.size(0));
                   }));
    }
  }
}

TEST_F(ShortConvolutions, ContinueFromTheCache) {
  ShortConvolution operation = convolution(4, true);
  const std::vector<std::int64_t> prompts{1, 6, 2};
  const at::Tensor rows = at::randn({3, 10, 15}, at::kDouble);
  const auto forward = [&](const Batch& batch, const at::Tensor& in) {
    d_out_ = at::zeros({in.size(0), 5}, at::kDouble);
    run(operation, batch, {in}, Way::kApart);
    return out_;
  };
  const Batch whole = batch_of({10, 10, 10});
  const at::Tensor tail = at::zeros({kTail, 15}, at::kDouble);
  const at::Tensor want = forward(whole, at::cat({rows.view({30, 15}), tail})).slice(0, 0, 30).view({3, 10, 5});
  KvCache cache({{0, 0, 3, 5}}, 3, 10, at::kCPU, at::kDouble);
  cache.state(0).fill_(7.0);  // what an earlier row left
  const auto step = [&](const std::vector<std::int64_t>& lengths) {
    Batch batch = batch_of(lengths);
    Tensors parts;
    for (std::int64_t r = 0; r < 3; ++r) {
      parts.push_back(rows[r].narrow(0, cache.length(r), lengths[static_cast<std::size_t>(r)]));
    }
    parts.push_back(tail);
    batch.cache = &cache;
    batch.cache_slots = {0, 1, 2};
    batch.slots = at::arange(3 + kTail, at::kLong).clamp_max_(cache.spare_slot());  // for steps of decoding
    const at::Tensor in = at::cat(parts);
    const OperationPlan plan = operation.plan({in.size(0), 0});
    OperationViews v;
    v.in = {in};
    v.out = at::empty(plan.output, at::kDouble);
    for (const BufferSpec& spec : plan.buffers) v.buffers.push_back(at::empty(spec.shape, spec.dtype));
    operation.forward(batch, v);
    for (std::int64_t r = 0; r < 3; ++r) {
      const std::int64_t length = lengths[static_cast<std::size_t>(r)];
      const std::int64_t begin = batch.row_bounds[static_cast<std::size_t>(r)];
      EXPECT_LT(difference(v.out.narrow(0, begin, length), want[r].narrow(0, cache.length(r), length)), 1e-12);
      cache.advance(r, length);
    }
  };
  step(prompts);
  for (int i = 0; i < 2; ++i) step({1, 1, 1});
  step({2, 1, 5});
  step({3, 1, 1});
}

TEST_F(Operations, LossHeadWithScaleAndSoftCap) {
  for (const double softcap : {0.0, 2.0}) {
    parameters_ = {};
    const RmsNorm norm(parameter("norm", {6}), 6, 1e-6, at::kDouble, 1.0);
    LossHead loss(std::make_shared<Head>(norm, Head::Spec{parameter("head", {11, 6}), 11, LogitTransform{0.4, softcap}},
                                         parameters_, at::kDouble));
    fill_parameters();
    Batch batch = batch_of({5, 3});
    batch.labelled = at::tensor({1, 2, 6}, at::kLong);
    batch.targets = at::tensor({4, 0, 10}, at::kLong);
    batch.loss_scale = 0.3;
    const at::Tensor hidden = input(batch, 6).set_requires_grad(true);
    Tensors roots{hidden};
    for (int i = 0; i < 2; ++i) roots.push_back(parameters_.value(i).clone().set_requires_grad(true));
    at::Tensor logits = 0.4 * at::matmul(normed(hidden.index_select(0, batch.labelled), 1.0 + roots[1]), roots[2].t());
    if (softcap > 0.0) logits = softcap * at::tanh(logits / softcap);
    const at::Tensor want = -0.3 * at::log_softmax(logits, -1).gather(1, batch.targets.unsqueeze(1)).sum();
    const Tensors gradients = torch::autograd::grad({want}, roots);
    const OperationPlan plan = loss.plan({batch.positions.size(0), 3});
    OperationViews v;
    v.in = {hidden.detach()};
    v.out = at::empty(plan.output, at::kDouble);
    for (const BufferSpec& spec : plan.buffers) v.buffers.push_back(at::empty(spec.shape, spec.dtype));
    v.d_in = {at::empty_like(v.in[0])};
    v.accumulate = {false};
    loss.forward(batch, v);
    loss.backward(batch, v);
    EXPECT_NEAR(v.out.item<double>(), want.item<double>(), 1e-12);
    EXPECT_LT(difference(v.d_in[0], gradients[0]), 1e-12);
    for (int i = 0; i < 2; ++i)
      EXPECT_LT(difference(parameters_.grad(i), gradients[static_cast<std::size_t>(i) + 1]), 1e-12);
  }
}

}  // namespace
}  // namespace qlora
