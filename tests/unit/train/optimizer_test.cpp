// AdamW against torch.optim.AdamW's formula written out in double; clipping against clip_grad_norm_'s.
#include "qlora/train/optimizer.h"

#include <cmath>
#include <limits>
#include <vector>

#include <ATen/ops/full.h>
#include <gtest/gtest.h>

#include "qlora/core/error.h"
#include "qlora/train/adamw_8bit.h"

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

// Sizes of which some keep fp32 moments.
ParameterSet mixed_parameters() {
  ParameterSet set;
  set.add("a.lora_A.weight", {16, 300}, true);
  set.add("a.lora_B.weight", {300, 16}, true);
  set.add("bias", {4095}, false);
  set.add("norm", {4097}, false);
  set.allocate(at::kCPU, at::kFloat);
  for (std::int64_t i = 0; i < set.size(); ++i) {
    set.values().data_ptr<float>()[i] = std::cos(static_cast<float>(i));
  }
  return set;
}

void step_with_waves(ParameterSet& set, AdamW& optimizer, int t, double max_norm = 0.0) {
  for (std::int64_t i = 0; i < set.size(); ++i) {
    const double size = 1.0 / static_cast<double>(1 + i % 5);
    set.grads().data_ptr<float>()[i] =
        i % 7 == 0 ? 0.0F : static_cast<float>(size * std::sin(static_cast<double>(i) + 0.3 * t));
  }
  optimizer.step(1e-2, max_norm);
}

AdamWSettings eight_bits() {
  AdamWSettings settings;
  settings.weight_decay = 0.1;
  settings.eight_bit = true;
  return settings;
}

TEST(AdamW8bit, KeepsSmallTensorsInFp32AndFollowsTheOthers) {
  ParameterSet narrow = mixed_parameters(), wide = mixed_parameters();
  AdamWSettings settings = eight_bits();
  AdamW with_codes(narrow, settings);
  settings.eight_bit = false;
  AdamW exact(wide, settings);
  const auto state = with_codes.state();
  EXPECT_EQ(state.at("exp_avg").numel(), 4095);
  EXPECT_EQ(state.at("exp_avg_codes").numel(), 4800 + 4800 + 4097);
  EXPECT_EQ(state.at("exp_avg_absmax").numel(), 19 + 19 + 17);  // blocks of 256 begin anew with each tensor
  const at::Tensor start = narrow.values().clone();
  for (int t = 1; t <= 10; ++t) {
    step_with_waves(narrow, with_codes, t);
    step_with_waves(wide, exact, t);
  }
  const at::Tensor apart = narrow.values().sub(wide.values());
  const double went = wide.values().sub(start).norm().item<double>();
  EXPECT_TRUE(apart.narrow(0, 9600, 4095).eq(0.0).all().item<bool>());
  EXPECT_GT(apart.norm().item<double>(), 0.0);
  EXPECT_LT(apart.norm().item<double>(), 0.1 * went) << "of " << went;
}

TEST(AdamW8bit, FollowsItsFormula) {
  constexpr std::int64_t kCount = 300;  // two blocks, the second one short
  std::vector<float> values(kCount, 0.5F), gradients(kCount), first_absmax(2), second_absmax(2);
  std::vector<std::uint8_t> first(kCount), second(kCount);
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    gradients[i] = i >= 256 ? 0.0F : static_cast<float>(std::sin(static_cast<double>(i)));
  }
  const AdamW8bitTensor tensor{kCount,        values.data(),       gradients.data(),    first.data(),
                               second.data(), first_absmax.data(), second_absmax.data()};
  const AdamWScalars s{1e-2F, 0.9F, 0.999F, 1e-8F, 1.0F - 0.9F, 0.001F, 0.1F, std::sqrt(0.001F)};
  adamw_8bit_step(tensor, s, 1e-2F, 0.1F);
  float top = 0.0F;
  for (std::size_t i = 0; i < 256; ++i) top = std::max(top, std::fabs((1.0F - 0.9F) * gradients[i]));
  EXPECT_EQ(first_absmax, (std::vector<float>{top, 0.0F}));
  for (std::size_t i = 0; i < 256; ++i) {
    const double moment = 0.1 * static_cast<double>(gradients[i]);
    EXPECT_NEAR(signed_dynamic_map()[first[i]] * top, moment, 0.008 * static_cast<double>(top)) << i;
    // After the first step m / sqrt(v) is the gradient's sign, whatever its size.
    const double sign = gradients[i] == 0.0F ? 0.0 : std::copysign(1.0, static_cast<double>(gradients[i]));
    EXPECT_NEAR(values[i], (0.5 - 1e-2 * sign) * (1.0 - 1e-3), 1e-5) << i;
    EXPECT_EQ(std::signbit(signed_dynamic_map()[first[i]]), std::signbit(gradients[i])) << i;
  }
  for (std::size_t i = 256; i < kCount; ++i) EXPECT_NEAR(values[i], 0.5 * (1.0 - 1e-3), 1e-7);
}

TEST(AdamW8bit, GoesOnBitByBitFromItsState) {
  ParameterSet a = mixed_parameters(), b = mixed_parameters();
  AdamW whole(a, eight_bits()), rest(b, eight_bits());
  for (int t = 1; t <= 3; ++t) step_with_waves(a, whole, t);
  b.values().copy_(a.values());
  rest.restore(whole.state(), whole.steps());
  for (int t = 4; t <= 6; ++t) {
    step_with_waves(a, whole, t);
    step_with_waves(b, rest, t);
  }
  EXPECT_TRUE(a.values().equal(b.values()));
  AdamW wide(b, {});
  EXPECT_THROW(rest.restore(wide.state(), 1), DataError);
}

TEST(AdamW, IsTheSamePagedOnTheCpu) {
  for (const bool eight_bit : {false, true}) {
    ParameterSet a = mixed_parameters(), b = mixed_parameters();
    AdamWSettings settings = eight_bits();
    settings.eight_bit = eight_bit;
    AdamW plain(a, settings);
    settings.paged = true;
    AdamW paged(b, settings);
    for (int t = 1; t <= 3; ++t) {
      step_with_waves(a, plain, t, 0.5);
      step_with_waves(b, paged, t, 0.5);
    }
    EXPECT_TRUE(a.values().equal(b.values()));
    EXPECT_EQ(optimizer_bytes(a, settings, at::kCPU).host, 0);
  }
}

TEST(AdamW, SaysWhatItsStateTakes) {
  const ParameterSet set = mixed_parameters();
  AdamWSettings settings;
  const std::int64_t n = set.size();
  EXPECT_EQ(optimizer_bytes(set, settings, at::kCPU).device, 8 * n);
  settings.paged = true;
  const OptimizerBytes paged = optimizer_bytes(set, settings, at::kCUDA);
  EXPECT_EQ(paged.host, 8 * n);
  EXPECT_LE(paged.device, 16 * n);
  settings.paged = false;
  settings.eight_bit = true;
  EXPECT_EQ(optimizer_bytes(set, settings, at::kCUDA).device, 8 * 4095 + 2 * (n - 4095) + 8 * (19 + 19 + 17));
}

TEST(AdamW, GivesEveryLoraBItsOwnRate) {
  ParameterSet plain = mixed_parameters(), plus = mixed_parameters();
  AdamWSettings settings;
  AdamW one(plain, settings);
  settings.lora_b_rate = 4.0;
  AdamW two(plus, settings);
  const at::Tensor start = plain.values().clone();
  step_with_waves(plain, one, 1);
  step_with_waves(plus, two, 1);
  const at::Tensor moved = plain.values().sub(start), moved_plus = plus.values().sub(start);
  EXPECT_TRUE(moved.narrow(0, 0, 4800).equal(moved_plus.narrow(0, 0, 4800)));
  EXPECT_TRUE(moved_plus.narrow(0, 4800, 4800).sub(moved.narrow(0, 4800, 4800), 4.0).abs().max().item<double>() < 1e-6);
  EXPECT_TRUE(moved.narrow(0, 9600, 8192).equal(moved_plus.narrow(0, 9600, 8192)));
}

TEST(AdamW, StopsForGoodAtNanAndInf) {
  for (const bool in_loss : {false, true}) {
    ParameterSet set = three_parameters(at::kFloat);
    AdamW optimizer(set, {});
    set.grads().fill_(1.0);
    optimizer.step(1e-2);
    const at::Tensor values = set.values().clone();
    if (!in_loss) set.grads()[4] = std::numeric_limits<double>::quiet_NaN();
    optimizer.step(1e-2, 1.0, at::full({}, in_loss ? std::numeric_limits<double>::infinity() : 1.0));
    set.grads().fill_(1.0);
    optimizer.step(1e-2);
    EXPECT_EQ(optimizer.failed_step(), 2);
    EXPECT_TRUE(set.values().equal(values));
  }
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
