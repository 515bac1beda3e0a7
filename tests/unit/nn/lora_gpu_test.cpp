// LoRA's kernels against the plain formula in float64 with dropout's own masks, and a projection with them against one
// without, at odd shapes.
#include <algorithm>

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "qlora/nn/kernels.h"
#include "qlora/nn/projection.h"

#include "support/gpu.h"

namespace qlora {
namespace {

struct LoraCase {
  Dtype dtype;
  std::int64_t tokens, in;
  std::vector<std::int64_t> ranks;
  std::vector<double> dropouts;
  std::int64_t gap = 0;  // between the rows of x
};

class Lora : public GpuTest, public testing::WithParamInterface<LoraCase> {
 protected:
  static constexpr std::int64_t kTail = 2, kOut = 40;

  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    at::manual_seed(5);
    const LoraCase& c = GetParam();
    for (const std::int64_t rank : c.ranks) ranks_ += rank;
    batch_.row_bounds = {0, c.tokens / 3, c.tokens - kTail};
    batch_.row_keys = {5, 70000};
    batch_.step = 3;
    batch_.training = true;
    std::vector<std::int32_t> keys;
    std::vector<std::int64_t> positions;
    for (std::int64_t t = 0; t < c.tokens; ++t) {
      const bool tail = t >= batch_.row_bounds[2];
      const std::size_t row = t >= batch_.row_bounds[1] ? 1 : 0;
      keys.push_back(tail ? -1 : static_cast<std::int32_t>(batch_.row_keys[row]));
      positions.push_back(tail ? 0 : t - batch_.row_bounds[row]);
    }
    batch_.token_rows = at::tensor(keys, at::kInt).cuda();
    batch_.positions = at::tensor(positions, at::kLong).cuda();
    batch_.step_number = at::tensor({3}, at::kInt).cuda();
  }

  at::Tensor random(std::int64_t rows, std::int64_t columns) const {
    return at::randn({rows, columns}, at::TensorOptions().device(at::kCUDA)).to(GetParam().dtype);
  }
  at::Tensor random_rows() const {  // with gaps between them
    const LoraCase& c = GetParam();
    return random(c.tokens, c.in + c.gap).narrow(1, 0, c.in);
  }
  at::Tensor random_d_u() const {
    at::Tensor d_u = random(GetParam().tokens, ranks_);
    d_u.narrow(0, GetParam().tokens - kTail, kTail).zero_();
    return d_u;
  }

  std::vector<gpu::LoraDown> adapters() const {
    const LoraCase& c = GetParam();
    std::vector<gpu::LoraDown> made;
    std::int64_t column = 0;
    for (std::size_t i = 0; i < c.ranks.size(); ++i) {
      made.push_back({random(c.ranks[i], c.in),
                      random(c.ranks[i], c.in).to(at::kFloat),
                      column,
                      c.dropouts[i],
                      {0x123456789abcdef0, static_cast<std::uint32_t>(17 + i)}});
      column += c.ranks[i];
    }
    return made;
  }

  at::Tensor mask(const gpu::LoraDown& adapter) const {
    const LoraCase& c = GetParam();
    at::Tensor mask = at::ones({c.tokens, c.in}, at::kFloat);
    if (adapter.dropout > 0.0) apply_dropout(mask, mask, batch_, adapter.key, adapter.dropout);
    return mask.cuda().to(at::kDouble);
  }

  // Relative, and says where it is farthest.
  void expect_near(const at::Tensor& got, const at::Tensor& want, double tolerance, const char* what) const {
    const at::Tensor difference = (got.to(at::kDouble) - want.to(at::kDouble)).nan_to_num(1e30);
    const double distance = (difference.norm() / want.to(at::kDouble).norm()).item<double>();
    if (distance <= tolerance) return;
    const auto worst = difference.abs().argmax().item<std::int64_t>();
    const std::int64_t row = worst / got.size(1), column = worst % got.size(1);
    ADD_FAILURE() << fmt::format(
        "{} is off by {:.2e}; most at [{}, {}]: {} for {}; {} of {} elements are off by a tenth", what, distance, row,
        column, got[row][column].item<double>(), want[row][column].item<double>(),
        difference.abs().gt(want.to(at::kDouble).abs() * 0.1 + 0.1).sum().item<std::int64_t>(), got.numel());
  }

  double rounding() const { return GetParam().dtype == at::kHalf ? 5e-4 : 4e-3; }

  Batch batch_;
  std::int64_t ranks_ = 0;
};

TEST_P(Lora, Down) {
  const LoraCase& c = GetParam();
  ASSERT_TRUE(gpu::serves_lora(at::kCUDA, c.dtype, c.in, c.ranks));
  const auto adapters = this->adapters();
  const at::Tensor x = random_rows();
  const at::Tensor u = at::full({c.tokens, ranks_}, std::nan(""), x.options());
  gpu::lora_down(x, adapters, batch_, u);
  for (const gpu::LoraDown& adapter : adapters) {
    const at::Tensor want = at::matmul(x.to(at::kDouble) * mask(adapter), adapter.a.to(at::kDouble).t());
    expect_near(u.narrow(1, adapter.column, adapter.a.size(0)), want, rounding(), "u");
  }
  const at::Tensor again = at::empty_like(u);
  gpu::lora_down(x, adapters, batch_, again);
  EXPECT_TRUE(again.equal(u));
}

TEST_P(Lora, DownBackward) {
  const LoraCase& c = GetParam();
  const at::Tensor d_u = random_d_u();
  for (const int mode : {0, 1, 2, 3}) {  // written, added to, over x itself, not wanted
    const at::Tensor x = random_rows();
    const auto adapters = this->adapters();
    const bool accumulate = mode == 1;
    const at::Tensor d_x = mode == 3 ? at::Tensor() : mode == 2 ? x : random_rows();
    at::Tensor want = at::zeros({c.tokens, c.in}, x.options().dtype(at::kDouble));
    if (accumulate) want.copy_(d_x);
    std::vector<at::Tensor> want_d_a;
    for (const gpu::LoraDown& adapter : adapters) {
      const at::Tensor mine = d_u.narrow(1, adapter.column, adapter.a.size(0)).to(at::kDouble);
      want.add_(at::matmul(mine, adapter.a.to(at::kDouble)) * mask(adapter));
      want_d_a.push_back(adapter.d_a.to(at::kDouble) + at::matmul(mine.t(), x.to(at::kDouble) * mask(adapter)));
    }
    const at::Tensor workspace =
        at::full({gpu::lora_workspace(c.tokens, c.in, ranks_)}, std::nan(""), x.options().dtype(at::kFloat));
    gpu::lora_down_backward(x, d_u, adapters, batch_, d_x, accumulate, workspace);
    for (std::size_t i = 0; i < adapters.size(); ++i) expect_near(adapters[i].d_a, want_d_a[i], 2e-6, "d_a");
    if (d_x.defined()) expect_near(d_x, want, 2 * rounding(), "d_x");
  }
}

TEST_P(Lora, Up) {
  const LoraCase& c = GetParam();
  if (*std::max_element(c.ranks.begin(), c.ranks.end()) > 64) return;
  const at::Tensor u = random(c.tokens, ranks_);
  std::vector<gpu::LoraUp> adapters;
  std::vector<at::Tensor> parts;
  std::int64_t begin = 0;
  for (const gpu::LoraDown& down : this->adapters()) {
    const std::int64_t rank = down.a.size(0), out = kOut + 40 * static_cast<std::int64_t>(adapters.size());
    adapters.push_back({random(out, rank), down.column, begin, 0.5 + static_cast<double>(begin)});
    parts.push_back(at::matmul(u.narrow(1, down.column, rank).to(at::kDouble), adapters.back().b.to(at::kDouble).t()) *
                    adapters.back().scale);
    begin += out;
  }
  const at::Tensor want = at::cat(parts, 1);
  const at::Tensor residual = random(c.tokens, begin);
  const at::Tensor y = at::full({c.tokens, begin}, std::nan(""), u.options());
  gpu::lora_up(u, adapters, {}, y);
  expect_near(y, want, rounding(), "y");
  gpu::lora_up(u, adapters, residual, y);
  expect_near(y, want + residual.to(at::kDouble), rounding(), "y with the residual");
}

// The kernels' projection and the ATen forms' agree to the rounding of what lies between their steps.
TEST_P(Lora, Projection) {
  const LoraCase& c = GetParam();
  auto store = std::make_shared<WeightStore>(at::kCUDA, c.dtype, WeightPolicy{});
  ParameterSet parameters;
  Projection::Spec spec;
  spec.in = c.in;
  spec.out = kOut * static_cast<std::int64_t>(c.ranks.size());
  spec.residual = c.in == 72;
  spec.weight = Weight::frozen(*store, store->add({{"w", {spec.out, c.in}, false}}));
  store->put("w", at::randn({spec.out, c.in}) * 0.1);
  for (std::size_t i = 0; i < c.ranks.size(); ++i) {
    LoraSegment s;
    s.begin = kOut * static_cast<std::int64_t>(i);
    s.out = kOut;
    s.rank = c.ranks[i];
    s.scale = 2.0;
    s.dropout = c.dropouts[i];
    s.key = {77, static_cast<std::uint32_t>(i)};
    s.a = parameters.add(fmt::format("a{}", i), {s.rank, c.in}, true);
    spec.adapters.push_back(s);
  }
  for (std::size_t i = 0; i < c.ranks.size(); ++i) {
    spec.adapters[i].b = parameters.add(fmt::format("b{}", i), {kOut, c.ranks[i]}, true);
  }
  parameters.allocate(at::kCUDA, c.dtype);
  parameters.values().normal_().mul_(0.1);
  parameters.refresh_compute();
  const at::Tensor x = random(c.tokens, c.in);
  const at::Tensor residual = random(c.tokens, spec.out);
  const at::Tensor d_out = random(c.tokens, spec.out);
  d_out.narrow(0, c.tokens - kTail, kTail).zero_();
  struct Result {
    at::Tensor out, d_x, grads;
  };
  const auto run = [&](bool over_x) {
    class Projection projection(spec, parameters, c.dtype);
    OperationViews v;
    v.in = {x.clone(), residual};
    v.out = at::full({c.tokens, spec.out}, std::nan(""), x.options());
    for (const BufferSpec& buffer : projection.plan({c.tokens, 0, at::kCUDA}).buffers) {
      v.buffers.push_back(at::full(buffer.shape, std::nan(""), x.options().dtype(buffer.dtype)));
    }
    v.d_out = d_out;
    v.d_in = {over_x ? v.in[0] : at::full_like(x, std::nan(""))};
    v.d_in.push_back(v.d_out);  // passed through
    v.accumulate = {false, false};
    parameters.zero_grad();
    projection.forward(batch_, v);
    projection.backward(batch_, v);
    return Result{v.out, v.d_in[0], parameters.grads().clone().unsqueeze(0)};
  };
  const Result fused = run(true);
  const Result again = run(false);
  EXPECT_TRUE(fused.out.equal(again.out));
  EXPECT_TRUE(fused.d_x.equal(again.d_x));
  EXPECT_TRUE(fused.grads.equal(again.grads));
  const gpu::AtenForms aten;
  const Result plain = run(false);
  expect_near(fused.out, plain.out, 2 * rounding(), "y");
  expect_near(fused.d_x, plain.d_x, 2 * rounding(), "d_x");
  expect_near(fused.grads, plain.grads, 2 * rounding(), "gradients");
}

INSTANTIATE_TEST_SUITE_P(Shapes, Lora,
                         testing::Values(LoraCase{at::kBFloat16, 37, 96, {16, 16, 16}, {0.3, 0.3, 0.3}},
                                         LoraCase{at::kBFloat16, 261, 136, {16, 8, 16}, {0.3, 0.0, 0.1}, 48},
                                         LoraCase{at::kBFloat16, 33, 72, {8, 16}, {0.0, 0.0}, 8},
                                         LoraCase{at::kBFloat16, 65, 1032, {24}, {0.5}},
                                         LoraCase{at::kBFloat16, 21, 72, {64}, {0.05}},
                                         LoraCase{at::kBFloat16, 50, 200, {24, 80, 8}, {0.5, 0.2, 0.2}, 16},
                                         LoraCase{at::kHalf, 129, 264, {16, 16}, {0.05, 0.05}},
                                         LoraCase{at::kHalf, 40, 72, {64, 64, 64}, {0.0, 0.1, 0.1}}));

}  // namespace
}  // namespace qlora
