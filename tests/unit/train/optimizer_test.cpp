// AdamW against torch.optim.AdamW's formula written out in double; clipping against clip_grad_norm_'s.
#include "qlora/train/optimizer.h"

#include <cmath>
#include <vector>

#include <ATen/ops/linalg_vector_norm.h>
#include <gtest/gtest.h>

namespace qlora {
namespace {

ParameterSet three_parameters(at::ScalarType dtype) {
  ParameterSet set;
  set.add("weight", {2, 3}, true);
  set.add("bias", {3}, false);
  set.add("other", {4}, true);
  set.allocate(at::kCPU, dtype);
  return set;
}

struct Plain {
  std::vector<double> p, m, v;
};

void plain_step(Plain& x, const std::vector<double>& g, int t, double rate, const AdamWSettings& s,
                const std::vector<bool>& decays) {
  for (std::size_t i = 0; i < g.size(); ++i) {
    if (decays[i]) x.p[i] -= rate * s.weight_decay * x.p[i];
    x.m[i] = s.beta1 * x.m[i] + (1 - s.beta1) * g[i];
    x.v[i] = s.beta2 * x.v[i] + (1 - s.beta2) * g[i] * g[i];
    const double m_hat = x.m[i] / (1 - std::pow(s.beta1, t));
    const double v_hat = x.v[i] / (1 - std::pow(s.beta2, t));
    x.p[i] -= rate * m_hat / (std::sqrt(v_hat) + s.epsilon);
  }
}

class AdamWTest : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(AdamWTest, FollowsTheFormulaAndSparesWhatDoesNotDecay) {
  ParameterSet set = three_parameters(GetParam());
  const AdamWSettings settings{0.9, 0.99, 1e-8, 0.1};
  AdamW optimizer(set, settings);
  const auto n = static_cast<std::size_t>(set.size());
  const std::vector<bool> decays = {true, true, true, true, true, true, false, false, false, true, true, true, true};
  Plain plain{std::vector<double>(n), std::vector<double>(n), std::vector<double>(n)};
  for (std::size_t i = 0; i < n; ++i) plain.p[i] = std::cos(static_cast<double>(i));
  for (std::size_t i = 0; i < n; ++i) set.values()[static_cast<std::int64_t>(i)] = plain.p[i];
  for (int t = 1; t <= 20; ++t) {
    std::vector<double> gradient(n);
    for (std::size_t i = 0; i < n; ++i) {
      gradient[i] = std::sin(static_cast<double>(i) + 0.3 * t) * (i == 5 ? 1e-6 : 1.0);
      set.grads()[static_cast<std::int64_t>(i)] = gradient[i];
    }
    const double rate = 0.01 * t;
    optimizer.step(rate);
    plain_step(plain, gradient, t, rate, settings, decays);
  }
  const double tolerance = GetParam() == at::kDouble ? 1e-12 : 2e-5;
  for (std::size_t i = 0; i < n; ++i) {
    EXPECT_NEAR(set.values()[static_cast<std::int64_t>(i)].item<double>(), plain.p[i], tolerance) << i;
  }
  EXPECT_EQ(optimizer.steps(), 20);
}

INSTANTIATE_TEST_SUITE_P(Types, AdamWTest, ::testing::Values(at::kDouble, at::kFloat));

TEST(AdamW, GoesOnBitByBitFromItsState) {
  ParameterSet a = three_parameters(at::kFloat), b = three_parameters(at::kFloat);
  AdamW whole(a, {0.9, 0.999, 1e-8, 0.01});
  const auto step = [](ParameterSet& set, AdamW& optimizer, int t) {
    for (std::int64_t i = 0; i < set.size(); ++i) set.grads()[i] = std::sin(static_cast<double>(i * t + 1));
    optimizer.step(1e-2);
  };
  for (int t = 1; t <= 3; ++t) step(a, whole, t);
  AdamW rest(b, {0.9, 0.999, 1e-8, 0.01});
  b.values().copy_(a.values());
  rest.restore(whole.state(), whole.steps());
  for (int t = 4; t <= 6; ++t) {
    step(a, whole, t);
    step(b, rest, t);
  }
  EXPECT_TRUE(a.values().equal(b.values()));
}

TEST(AdamW, RefreshesTheCopyThatIsComputedWith) {
  ParameterSet set = three_parameters(at::kBFloat16);
  AdamW optimizer(set, {});
  set.grads().fill_(1.0);
  optimizer.step(0.5);
  EXPECT_TRUE(set.compute(0).equal(set.value(0).to(at::kBFloat16)));
  EXPECT_NE(set.compute(0)[0][0].item<double>(), 0.0);
}

TEST(ClipGradients, ScalesByTheNormOfAllTogether) {
  ParameterSet set = three_parameters(at::kDouble);
  set.grads().fill_(2.0);
  const double norm = 2.0 * std::sqrt(13.0);
  EXPECT_DOUBLE_EQ(clip_gradients(set, 0.0), norm);
  EXPECT_EQ(set.grads()[0].item<double>(), 2.0);
  EXPECT_DOUBLE_EQ(clip_gradients(set, 100.0), norm);
  EXPECT_EQ(set.grads()[0].item<double>(), 2.0);
  EXPECT_DOUBLE_EQ(clip_gradients(set, 1.0), norm);
  EXPECT_DOUBLE_EQ(set.grads()[12].item<double>(), 2.0 / (norm + 1e-6));
}

}  // namespace
}  // namespace qlora
