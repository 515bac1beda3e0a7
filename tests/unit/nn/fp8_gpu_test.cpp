// The fp8 kernels bit for bit against their CPU forms, the products of cuBLASLt against the rounded values multiplied
// in float32.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "qlora/nn/fp8.h"
#include "qlora/nn/kernels.h"

#include "support/gpu.h"

namespace qlora {
namespace {

const at::TensorOptions kOnGpu = at::TensorOptions().device(at::kCUDA);

class Fp8Weights : public GpuTest, public testing::WithParamInterface<bool> {};

TEST_P(Fp8Weights, EqualTheCpusBothWaysRound) {
  for (const auto& [n, k] : {std::pair<std::int64_t, std::int64_t>{144, 208}, {16, 16}, {128, 64}, {272, 1040}}) {
    const std::string shape = std::to_string(n) + " x " + std::to_string(k);
    const at::Tensor values = at::randn({n, k}) * 0.02;
    const Nf4Weight cpu = nf4_quantize(values, at::kCPU, GetParam(), shape);
    const Nf4Weight gpu = to_device(to_host(cpu), at::kCUDA);
    const float largest = nf4_largest(cpu).item<float>();
    EXPECT_FLOAT_EQ(nf4_largest(gpu).item<float>(), largest) << shape;
    const at::Tensor scale = at::tensor({largest / 448.0F, 448.0F / largest});
    for (const bool transposed : {false, true}) {
      // Rows apart, as those of a member among others.
      const std::int64_t rows = transposed ? k : n, columns = transposed ? n : k;
      const auto type = at::TensorOptions().dtype(at::kFloat8_e4m3fn);
      const at::Tensor want = at::empty({rows, columns}, type);
      const at::Tensor wide = at::empty({rows, columns + 32}, type.device(at::kCUDA));
      const at::Tensor got = wide.narrow(1, 16, columns);
      nf4_to_fp8(cpu, scale, transposed, want);
      nf4_to_fp8(gpu, scale.cuda(), transposed, got);
      EXPECT_TRUE(at::equal(got.view(at::kByte).cpu(), want.view(at::kByte))) << shape << transposed;
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Nested, Fp8Weights, testing::Bool());

class Fp8Products : public GpuTest, public testing::WithParamInterface<at::ScalarType> {};

TEST_P(Fp8Products, RowsAreRoundedAsOnTheCpu) {
  for (const std::int64_t columns : {16, 208, 5632}) {
    at::Tensor x = (at::randn({37, columns}, kOnGpu) * 3.0).to(GetParam());
    x[3].zero_();
    x[4].mul_(1e-20);
    const at::Tensor factor = at::full({}, 0.75, kOnGpu);
    const at::Tensor codes = at::empty(x.sizes(), kOnGpu.dtype(at::kFloat8_e4m3fn));
    const at::Tensor scales = at::empty({x.size(0)}, kOnGpu);
    gpu::fp8_quantize_rows(x, factor, codes, scales);
    const at::Tensor wide = x.cpu().to(at::kFloat);
    const at::Tensor largest = wide.abs().amax(1, true).clamp_min(1e-30);
    const at::Tensor want = (wide * (448.0 / largest)).to(at::kFloat8_e4m3fn);
    EXPECT_TRUE(at::equal(codes.view(at::kByte).cpu(), want.view(at::kByte)));
    EXPECT_TRUE(at::equal(scales.cpu(), (largest / 448.0 * 0.75).squeeze(1)));
  }
}

TEST_P(Fp8Products, EqualTheAtenForm) {
  if (!gpu::multiplies_fp8(at::kCUDA)) GTEST_SKIP() << "needs compute capability 9.0";
  WeightStore store(at::kCUDA, GetParam(), {.quantize = true, .fp8 = true});
  const auto group = store.add({{"w", {272, 1040}, true}});
  store.put("w", at::randn({272, 1040}, kOnGpu) * 0.02);
  for (const bool transposed : {false, true}) {
    const std::int64_t k = transposed ? 272 : 1040, n = transposed ? 1040 : 272;
    for (const std::int64_t m : {1, 100, 512}) {
      const at::Tensor x = at::randn({m, k}, kOnGpu).to(GetParam());
      const at::Tensor before = at::randn({m, n}, kOnGpu).to(GetParam());
      const at::Tensor bias = at::randn({n}, kOnGpu).to(GetParam());
      const Fp8Rows rows{at::empty({m, k}, kOnGpu.dtype(at::kFloat8_e4m3fn)), at::empty({m}, kOnGpu)};
      const Fp8Weight weight = store.materialize_fp8(group, transposed);
      const at::Tensor got = before.clone(), want = before.clone();
      fp8_gemm(got, x, weight, transposed ? Fp8Sums::kExact : Fp8Sums::kFast,
               {1.0, got, transposed ? at::Tensor() : bias}, rows);
      {
        const gpu::AtenForms aten;
        fp8_gemm(want, x, weight, transposed ? Fp8Sums::kExact : Fp8Sums::kFast,
                 {1.0, want, transposed ? at::Tensor() : bias}, rows);
      }
      const at::Tensor exact = want.to(at::kFloat);
      EXPECT_LT(((got.to(at::kFloat) - exact).norm() / exact.norm()).item<double>(), 5e-3) << m << transposed;
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Types, Fp8Products, testing::Values(at::kBFloat16, at::kHalf));

}  // namespace
}  // namespace qlora
