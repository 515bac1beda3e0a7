// Products in fp8 against the same rounding written out.
#include "qlora/nn/fp8.h"

#include <cmath>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "qlora/nn/projection.h"

namespace qlora {
namespace {

constexpr std::int64_t kOut = 48, kIn = 64, kTokens = 5;

at::Tensor e4m3(const at::Tensor& x) {
  return x.to(at::kFloat8_e4m3fn).to(at::kFloat);
}

// Each row in units of its largest / 448.
at::Tensor rounded_rows(const at::Tensor& x) {
  const at::Tensor unit = x.abs().amax(1, true) / 448.0;
  return e4m3(x / unit) * unit;
}

Fp8Rows rows_for(const at::Tensor& x) {
  return {at::empty(x.sizes(), at::kFloat8_e4m3fn), at::empty({x.size(0)}, at::kFloat)};
}

class Fp8 : public testing::Test {
 protected:
  explicit Fp8(WeightPolicy policy = {.quantize = true, .fp8 = true})
      : store_(at::kCPU, at::kFloat, std::move(policy)) {
    at::manual_seed(5);
    group_ = store_.add({{"q", {32, kIn}, true}, {"v", {16, kIn}, true}});
    store_.put("q", at::randn({32, kIn}) * 0.02);
    store_.put("v", at::randn({16, kIn}) * 0.05);
  }

  at::Tensor exact_weight() const { return at::cat({store_.dequantized("q"), store_.dequantized("v")}); }
  at::Tensor rounded_weight() const {
    const at::Tensor unit = exact_weight().abs().amax() / 448.0;
    return e4m3(exact_weight() / unit) * unit;
  }

  WeightStore store_;
  WeightStore::Group group_;
};

TEST_F(Fp8, AWeightHasOneScaleAndItsLargestValueIsTheLargestCode) {
  const Fp8Weight weight = store_.materialize_fp8(group_, false);
  const at::Tensor codes = weight.codes.to(at::kFloat);
  EXPECT_EQ(codes.abs().amax().item<float>(), 448.0F);
  const at::Tensor exact = exact_weight();
  // Half a unit in the last of 4 binary digits; below 2^-6 of the unit half a step of the subnormals.
  const at::Tensor limit = at::maximum(exact.abs() * 0.0626, weight.scale[0] * (1.0 / 1024 + 1e-6));
  EXPECT_TRUE(((codes * weight.scale[0] - exact).abs() <= limit).all().item<bool>());
}

TEST_F(Fp8, TransposedIsTheSameTurned) {
  const at::Tensor straight = store_.materialize_fp8(group_, false).codes.to(at::kFloat);
  const at::Tensor turned = store_.materialize_fp8(group_, true).codes.to(at::kFloat);
  EXPECT_TRUE(at::equal(turned, straight.t()));
  EXPECT_TRUE(at::equal(store_.materialize_fp8(group_, false).codes.to(at::kFloat), straight));
}

TEST_F(Fp8, AProductIsThatOfTheRoundedSides) {
  const at::Tensor x = at::randn({kTokens, kIn}) * at::tensor({1.0F, 30.0F, 1e-3F, 1e4F, 0.5F}).unsqueeze(1);
  const at::Tensor addend = at::randn({kTokens, kOut}), bias = at::randn({kOut});
  const at::Tensor out = at::empty({kTokens, kOut});
  fp8_gemm(out, x, store_.materialize_fp8(group_, false), Fp8Sums::kFast, {1.0, addend, bias}, rows_for(x));
  const at::Tensor expected = at::matmul(rounded_rows(x), rounded_weight().t()) + addend + bias;
  EXPECT_TRUE(at::allclose(out, expected, 1e-5, 1e-5));
  // The rounding is felt: another product than the exact one, but near it.
  const at::Tensor exact = at::matmul(x, exact_weight().t()) + addend + bias;
  const double distance = ((out - exact).norm() / exact.norm()).item<double>();
  EXPECT_GT(distance, 1e-3);
  EXPECT_LT(distance, 5e-2);
}

TEST_F(Fp8, ARowOfZerosGivesZerosAndNanStaysInItsRow) {
  at::Tensor x = at::randn({3, kIn});
  x[0].zero_();
  x[1][7] = std::nan("");
  const at::Tensor out = at::empty({3, kOut});
  fp8_gemm(out, x, store_.materialize_fp8(group_, false), Fp8Sums::kFast, {}, rows_for(x));
  EXPECT_EQ(out[0].abs().amax().item<float>(), 0.0F);
  EXPECT_TRUE(out[1].isnan().all().item<bool>());
  EXPECT_TRUE(out[2].isfinite().all().item<bool>());
}

TEST_F(Fp8, AProjectionTakesItForwardAndBackward) {
  ParameterSet parameters;
  Projection::Spec spec;
  spec.in = kIn;
  spec.out = kOut;
  spec.weight = Weight::frozen(store_, group_);
  Projection projection(spec, parameters, at::kFloat);
  const at::Tensor x = at::randn({kTokens, kIn}), d_out = at::randn({kTokens, kOut});
  OperationViews views;
  views.in = {x};
  views.out = at::empty({kTokens, kOut});
  views.d_out = d_out;
  views.d_in = {at::empty({kTokens, kIn})};
  views.accumulate = {false};
  for (const BufferSpec& buffer : projection.plan({kTokens, 1}).buffers) {
    views.buffers.push_back(at::empty(buffer.shape, buffer.dtype));
  }
  projection.forward({}, views);
  EXPECT_TRUE(at::allclose(views.out, at::matmul(rounded_rows(x), rounded_weight().t()), 1e-5, 1e-6));
  projection.backward({}, views);
  EXPECT_TRUE(at::allclose(views.d_in[0], at::matmul(rounded_rows(d_out), rounded_weight()), 1e-5, 1e-6));
}

TEST_F(Fp8, WhatTensorCoresDoNotTakeStaysInTheComputeType) {
  const auto odd = store_.add({{"odd", {24, kIn}, true}});
  const auto dense = store_.add({{"dense", {32, kIn}, false}});
  const auto mixed = store_.add({{"a", {32, kIn}, true}, {"b", {32, kIn}, false}});
  EXPECT_TRUE(store_.in_fp8(group_));
  EXPECT_FALSE(store_.in_fp8(odd));
  EXPECT_FALSE(store_.in_fp8(dense));
  EXPECT_FALSE(store_.in_fp8(mixed));
}

TEST_F(Fp8, ScratchHoldsOneFormAndIsPlanned) {
  store_.materialize_fp8(group_, true);
  store_.materialize_fp8(group_, false);
  EXPECT_EQ(store_.scratch_bytes(), kOut * kIn);
  EXPECT_EQ(store_.planned_scratch_bytes(), kOut * kIn);
}

struct CachedFp8 : Fp8 {
  CachedFp8() : Fp8({.quantize = true, .dequantize_cache_bytes = 1 << 20, .fp8 = true}) {}
};

TEST_F(CachedFp8, ACacheKeepsBothFormsAndIsPlanned) {
  const at::Tensor straight = store_.materialize_fp8(group_, false).codes;
  const at::Tensor turned = store_.materialize_fp8(group_, true).codes;
  EXPECT_TRUE(store_.materialize_fp8(group_, false).codes.is_same(straight));
  EXPECT_TRUE(at::equal(turned.to(at::kFloat), straight.to(at::kFloat).t()));
  EXPECT_EQ(store_.scratch_bytes(), 2 * kOut * kIn);
  EXPECT_EQ(store_.planned_scratch_bytes(), 2 * kOut * kIn);
}

}  // namespace
}  // namespace qlora
