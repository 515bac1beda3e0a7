// The optimizer's kernels against the CPU's form: 8-bit moments to the bit, fp32 ones to rounding; paging, clipping and
// failed steps.
#include <limits>

#include <ATen/ops/full.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include "qlora/train/adamw_cuda.h"
#include "qlora/train/optimizer.h"

#include "support/gpu.h"

namespace qlora {
namespace {

const at::Device kGpu(at::kCUDA, 0);
using AdamWGpu = GpuTest;

// Odd sizes, some under 4096; together more than two chunks of paged moments.
ParameterSet make_parameters(at::Device device, at::ScalarType compute) {
  ParameterSet set;
  set.add("a.lora_A.weight", {16, 1000}, true);
  set.add("a.lora_B.weight", {333, 16}, true);
  set.add("bias", {77}, false);
  set.add("b.lora_A.weight", {7, 9}, true);
  set.add("b.lora_B.weight", {kPagedChunk / 16 + 1, 17}, true);
  set.add("c.lora_A.weight", {3, kPagedChunk / 2 + 11}, true);
  set.add("norm", {5001}, false);
  set.allocate(device, compute);
  return set;
}

struct TinyRun {
  ParameterSet set;
  AdamW optimizer;

  TinyRun(at::Device device, at::ScalarType compute, AdamWSettings settings)
      : set(make_parameters(device, compute)), optimizer(set, settings) {
    at::manual_seed(5);
    set.values().copy_(at::randn({set.size()}).mul(0.1));
    set.refresh_compute();
  }

  double step(int t, double max_norm = 1.0) {
    at::manual_seed(static_cast<std::uint64_t>(100 + t));
    at::Tensor gradients = at::randn({set.size()}).mul(1e-3);
    gradients.narrow(0, 0, 1000).mul_(1e-6);
    gradients.narrow(0, 2000, 500).zero_();
    set.grads().copy_(gradients);
    return optimizer.step(1e-3 * t, max_norm).item<double>();
  }
};

AdamWSettings settings_of(bool eight_bit, bool paged) {
  return {0.9, 0.999, 1e-8, 0.1, eight_bit, paged, 4.0};
}

TEST_F(AdamWGpu, FollowsTheCpu) {
  for (const bool eight_bit : {false, true}) {
    for (const at::ScalarType compute : {at::kFloat, at::kBFloat16, at::kHalf}) {
      SCOPED_TRACE(::testing::Message() << (eight_bit ? "8" : "32") << " bits, computing in " << at::toString(compute));
      TinyRun cpu(at::kCPU, compute, settings_of(eight_bit, false)), gpu(kGpu, compute, settings_of(eight_bit, false));
      for (int t = 1; t <= 5; ++t) {
        const double norm = cpu.step(t);
        EXPECT_GT(norm, 1.0);  // so that it clips
        EXPECT_NEAR(gpu.step(t), norm, 1e-10 * norm);
      }
      const at::Tensor values = gpu.set.values().cpu();
      const at::Tensor difference = values.sub(cpu.set.values()).abs();
      EXPECT_LT(difference.max().item<double>(), 2e-7);
      for (ParameterSet::Id id = 0; id < 7; ++id) {
        EXPECT_TRUE(gpu.set.compute(id).equal(gpu.set.value(id).to(compute)));
      }
      for (const auto& [name, state] : cpu.optimizer.state()) {
        const at::Tensor own = gpu.optimizer.state().at(name).cpu();
        if (name.ends_with("_codes") || name.ends_with("_absmax")) {
          EXPECT_TRUE(own.equal(state)) << name;
        } else {
          EXPECT_TRUE(own.allclose(state, /*rtol=*/1e-6, /*atol=*/1e-10)) << name;
        }
      }
    }
  }
}

TEST_F(AdamWGpu, GivesTheSameBitsPagedAndGoingOn) {
  for (const bool eight_bit : {false, true}) {
    SCOPED_TRACE(eight_bit ? "8 bits" : "32 bits");
    TinyRun plain(kGpu, at::kBFloat16, settings_of(eight_bit, false)),
        paged(kGpu, at::kBFloat16, settings_of(eight_bit, true));
    EXPECT_TRUE(paged.optimizer.state().at(eight_bit ? "exp_avg_codes" : "exp_avg").is_pinned());
    for (int t = 1; t <= 4; ++t) EXPECT_EQ(plain.step(t), paged.step(t));
    EXPECT_TRUE(plain.set.values().equal(paged.set.values()));
    TinyRun rest(kGpu, at::kBFloat16, settings_of(eight_bit, true));
    rest.set.values().copy_(plain.set.values());
    rest.optimizer.restore(plain.optimizer.state(), plain.optimizer.steps());
    for (int t = 5; t <= 7; ++t) {
      plain.step(t);
      paged.step(t);
      rest.step(t);
    }
    EXPECT_TRUE(plain.set.values().equal(paged.set.values()));
    EXPECT_TRUE(plain.set.values().equal(rest.set.values()));
    for (const auto& [name, state] : plain.optimizer.state()) {
      EXPECT_TRUE(paged.optimizer.state().at(name).cpu().equal(state.cpu())) << name;
    }
  }
}

TEST_F(AdamWGpu, StopsForGoodAtNanAndInf) {
  for (const bool in_loss : {false, true}) {
    for (const bool paged : {false, true}) {
      TinyRun run(kGpu, at::kBFloat16, settings_of(false, paged));
      for (int t = 1; t <= 2; ++t) run.step(t);
      EXPECT_EQ(run.optimizer.failed_step(), 0);
      const at::Tensor values = run.set.values().clone();
      const at::Tensor moments = run.optimizer.state().at("exp_avg_sq").clone();
      if (!in_loss) run.set.grads()[12345] = std::numeric_limits<double>::quiet_NaN();
      const double bad = in_loss ? std::numeric_limits<double>::infinity() : 1.0;
      run.optimizer.step(1e-3, 1.0, at::full({}, bad, values.options()));
      EXPECT_EQ(run.optimizer.failed_step(), 3);
      run.step(4);
      EXPECT_EQ(run.optimizer.failed_step(), 3);
      EXPECT_TRUE(run.set.values().equal(values));
      EXPECT_TRUE(run.optimizer.state().at("exp_avg_sq").equal(moments));
    }
  }
}

TEST_F(AdamWGpu, TheNormIsTheSameEveryTime) {
  TinyRun run(kGpu, at::kFloat, settings_of(false, false));
  const double norm = run.step(1);
  EXPECT_NEAR(norm, at::linalg_vector_norm(run.set.grads(), 2, std::nullopt, false, at::kDouble).item<double>(),
              1e-12 * norm);
  TinyRun again(kGpu, at::kFloat, settings_of(false, false));
  EXPECT_EQ(again.step(1), norm);
}

}  // namespace
}  // namespace qlora
