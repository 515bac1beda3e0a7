#include "qlora/quant/nf4.h"

#include <bit>
#include <cmath>
#include <limits>
#include <random>

#include <gtest/gtest.h>

#include "qlora/core/error.h"
#include "qlora/core/float16.h"
#include "qlora/core/parallel.h"
#include "qlora/quant/dynamic_map.h"
#include "qlora/quant/nf4_decode.h"

namespace qlora {
namespace {

std::vector<float> normal_values(std::size_t count, std::uint32_t seed, float scale = 0.02F) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0.0F, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(engine);
  return values;
}

HostTensor tensor_of(const std::vector<float>& values) {
  return {ElementType::kF32, {static_cast<std::int64_t>(values.size())}, bytes_of(values)};
}

std::vector<int> codes_of(const Nf4Tensor& tensor) {
  std::vector<int> codes;
  for (const std::uint8_t byte : tensor.codes) {
    codes.push_back(byte >> 4);
    codes.push_back(byte & 15);
  }
  return codes;
}

std::vector<float> decoded(const Nf4Tensor& tensor) {
  std::vector<float> values(static_cast<std::size_t>(tensor.count()));
  nf4_dequantize(tensor.view(), ElementType::kF32, values.data());
  return values;
}

TEST(Nf4, EveryCodeValueDecodesToItself) {
  std::vector<float> values(kNf4Code.begin(), kNf4Code.end());
  const Nf4Tensor tensor = nf4_quantize(tensor_of(values), false);
  EXPECT_EQ(decoded(tensor), values);
  EXPECT_EQ(tensor.absmax, std::vector<float>{1.0F});
  EXPECT_EQ(tensor.codes[0], 0x01);  // the first element is the high nibble
  EXPECT_EQ(tensor.codes[7], 0xef);
}

TEST(Nf4, AValueOnAThresholdTakesTheLowerCode) {
  for (std::size_t t = 0; t < kNf4Thresholds.size(); ++t) {
    const float threshold = kNf4Thresholds[t];
    const std::vector<float> values = {1.0F, threshold, std::nextafter(threshold, 2.0F),
                                       std::nextafter(threshold, -2.0F)};
    const std::vector<int> codes = codes_of(nf4_quantize(tensor_of(values), false));
    const int lower = static_cast<int>(t);
    EXPECT_EQ(codes, (std::vector<int>{15, lower, lower + 1, lower}));
  }
}

TEST(Nf4, EndsOfTheRangeAreTheGpus) {
  const auto first_code = [](float top, float value) {
    return codes_of(nf4_quantize(tensor_of({top, value}), false))[1];
  };
  EXPECT_EQ(first_code(0.0F, 0.0F), 0);
  EXPECT_EQ(first_code(-0.0F, 0.0F), 0);
  EXPECT_EQ(first_code(0x1p-127F, -0x1p-127F), 0);
  EXPECT_EQ(first_code(0x1p-126F, 0x1p-126F), 15);
  EXPECT_EQ(first_code(0x1p-126F, 0x1.8p-127F), 7);  // a subnormal element counts as zero
  EXPECT_EQ(first_code(0x1p126F, 0x1p126F), 15);
  EXPECT_EQ(first_code(0x1.8p126F, 0x1.8p126F), 7);
}

TEST(Nf4, AnOddCountIsPaddedWithTheCodeOfZero) {
  EXPECT_EQ(nf4_quantize(tensor_of({0.0F}), false).codes[0], 0x00);
  const Nf4Tensor tensor = nf4_quantize(tensor_of({0.5F, -0.5F, 0.5F}), false);
  ASSERT_EQ(tensor.codes.size(), 2U);
  EXPECT_EQ(tensor.codes[0], 0xf0);
  EXPECT_EQ(tensor.codes[1], 0xf7);
}

TEST(Nf4, ValuesThatAreNotFiniteAreRefusedWithTheirIndex) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    std::vector<float> values = normal_values(100000, 1);
    values[77777] = bad;
    values[99999] = bad;
    try {
      nf4_quantize(tensor_of(values), false, "model.layers.0.mlp.up_proj.weight");
      FAIL();
    } catch (const DataError& error) {
      EXPECT_NE(std::string(error.what()).find("model.layers.0.mlp.up_proj.weight"), std::string::npos);
      EXPECT_NE(std::string(error.what()).find("77777"), std::string::npos) << error.what();
    }
  }
}

TEST(Nf4, SubnormalProductsDecodeToZero) {
  const std::array<std::uint8_t, 1> codes = {0xec};  // 0.7229..., 0.4407...
  const float absmax = 0x1.8p-126F;
  Nf4View view;
  view.count = 2;
  view.codes = codes.data();
  view.absmax = &absmax;
  std::array<float, 2> out{};
  nf4_dequantize(view, ElementType::kF32, out.data());
  EXPECT_EQ(out[0], kNf4Code[14] * absmax);  // 1.08 * 2^-126: still normal
  EXPECT_EQ(out[1], 0.0F);                   // 0.66 * 2^-126
}

TEST(Nf4, ScalesThatOverflowAreRefusedForNesting) {
  const std::vector<float> values(64 * 8, 0x1.8p127F);
  EXPECT_NO_THROW(nf4_quantize(tensor_of(values), false));
  EXPECT_THROW(nf4_quantize(tensor_of(values), true), DataError);
}

TEST(Nf4, IntegersAreRefused) {
  const std::vector<std::int32_t> values(64, 1);
  EXPECT_THROW(nf4_quantize(HostTensor{ElementType::kI32, {64}, bytes_of(values)}, false), DataError);
}

TEST(Nf4, SixteenBitInputGivesTheCodesOfItsFp32Values) {
  const std::vector<float> values = normal_values(5000, 2);
  std::vector<std::uint16_t> bf16;
  std::vector<std::uint16_t> fp16;
  for (const float value : values) {
    bf16.push_back(float_to_bf16(value));
    fp16.push_back(float_to_fp16(value));
  }
  for (const auto& [type, bits] : {std::pair(ElementType::kBF16, bf16), std::pair(ElementType::kF16, fp16)}) {
    const HostTensor narrow{type, {5000}, bytes_of(bits)};
    const std::vector<float> wide = to_float32(narrow);
    EXPECT_EQ(nf4_quantize(narrow, false).codes, nf4_quantize(tensor_of(wide), false).codes);
    EXPECT_EQ(nf4_quantize(narrow, false).absmax, nf4_quantize(tensor_of(wide), false).absmax);
  }
}

TEST(Nf4, ResultsDoNotDependOnThreads) {
  const std::vector<float> values = normal_values(300001, 3);
  const int threads = parallel_threads();
  set_parallel_threads(1);
  const Nf4Tensor one = nf4_quantize(tensor_of(values), true);
  const std::vector<float> decoded_by_one = decoded(one);
  set_parallel_threads(5);
  const Nf4Tensor five = nf4_quantize(tensor_of(values), true);
  EXPECT_EQ(one.codes, five.codes);
  EXPECT_EQ(one.absmax_codes, five.absmax_codes);
  EXPECT_EQ(one.nested_absmax, five.nested_absmax);
  EXPECT_EQ(decoded_by_one, decoded(five));
  set_parallel_threads(threads);
}

TEST(Nf4, NestedScalesComeBackWithinTheMapsError) {
  const std::vector<float> values = normal_values(64 * 1000, 4);
  const Nf4Tensor plain = nf4_quantize(tensor_of(values), false);
  const Nf4Tensor nested = nf4_quantize(tensor_of(values), true);
  EXPECT_EQ(plain.codes, nested.codes);
  std::vector<float> absmax(plain.absmax.size());
  nf4_absmax(nested.view(), 0, static_cast<std::int64_t>(absmax.size()), absmax.data());
  for (std::size_t b = 0; b < absmax.size(); ++b) {
    const float widest_step = 0.0071F * nested.nested_absmax[b / 256];
    EXPECT_NEAR(absmax[b], plain.absmax[b], widest_step);
  }
}

TEST(Nf4, EqualScalesNestExactly) {
  const std::vector<float> values(64 * 3, 0.25F);
  const Nf4Tensor tensor = nf4_quantize(tensor_of(values), true);
  EXPECT_EQ(tensor.absmax_codes, (std::vector<std::uint8_t>{0, 0, 0}));
  EXPECT_EQ(tensor.nested_absmax, std::vector<float>{0.0F});
  EXPECT_EQ(decoded(tensor), values);
}

TEST(Nf4, TheNestedMapIsAscendingAndHasItsEnds) {
  const auto& map = signed_dynamic_map();
  for (std::size_t i = 1; i < map.size(); ++i) EXPECT_LT(map[i - 1], map[i]);
  EXPECT_EQ(map[127], 0.0F);
  EXPECT_EQ(map[255], 1.0F);
  EXPECT_NEAR(map[0], -0.99297F, 1e-5);
}

template <typename T>
void expect_ranges_equal(const Nf4Tensor& tensor, ElementType type) {
  const auto count = tensor.count();
  std::vector<T> whole(static_cast<std::size_t>(count));
  nf4_dequantize(tensor.view(), type, whole.data());
  std::mt19937 engine(7);
  for (int trial = 0; trial < 200; ++trial) {
    const auto begin = static_cast<std::int64_t>(engine() % static_cast<std::uint32_t>(count));
    const auto length = static_cast<std::int64_t>(engine() % static_cast<std::uint32_t>(count - begin + 1));
    std::vector<T> part(static_cast<std::size_t>(length) + 1, T{42});
    nf4_dequantize(tensor.view(), begin, length, type, part.data());
    EXPECT_EQ(part.back(), T{42});  // nothing is written past the end
    part.pop_back();
    EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + begin)) << begin << " + " << length;
  }
}

TEST(Nf4, RangesAreCutOutOfTheWhole) {
  for (const bool nested : {false, true}) {
    const Nf4Tensor tensor = nf4_quantize(tensor_of(normal_values(200003, 5)), nested);
    expect_ranges_equal<float>(tensor, ElementType::kF32);
    expect_ranges_equal<std::uint16_t>(tensor, ElementType::kBF16);
    expect_ranges_equal<std::uint16_t>(tensor, ElementType::kF16);
  }
}

TEST(Nf4, RangesOutsideAndOddTypesAreRefused) {
  const Nf4Tensor tensor = nf4_quantize(tensor_of(normal_values(100, 5)), false);
  std::vector<float> out(200);
  EXPECT_THROW(nf4_dequantize(tensor.view(), 50, 51, ElementType::kF32, out.data()), RuntimeFailure);
  EXPECT_THROW(nf4_dequantize(tensor.view(), ElementType::kI32, out.data()), UsageError);
}

TEST(Nf4, VectorAndPlainDecodingAgree) {
  std::mt19937 engine(6);
  std::array<std::uint8_t, 32> codes{};
  Nf4Table<float> wide{};
  Nf4Table<std::uint16_t> narrow{};
  for (int trial = 0; trial < 1000; ++trial) {
    for (auto& code : codes) code = static_cast<std::uint8_t>(engine());
    for (auto& value : wide) value = static_cast<float>(engine());
    for (auto& value : narrow) value = static_cast<std::uint16_t>(engine());
    std::array<float, 64> wide_fast{};
    std::array<float, 64> wide_plain{};
    nf4_decode_block(codes.data(), wide, wide_fast.data());
    nf4_decode_portable(codes.data(), wide, 0, 64, wide_plain.data());
    EXPECT_EQ(wide_fast, wide_plain);
    std::array<std::uint16_t, 64> narrow_fast{};
    std::array<std::uint16_t, 64> narrow_plain{};
    nf4_decode_block(codes.data(), narrow, narrow_fast.data());
    nf4_decode_portable(codes.data(), narrow, 0, 64, narrow_plain.data());
    EXPECT_EQ(narrow_fast, narrow_plain);
  }
}

// The accuracy that bitsandbytes' own test expects of NF4 with blocks of 64 on normal weights.
TEST(Nf4, AccuracyOnNormalWeights) {
  const std::vector<float> values = normal_values(1024 * 1024, 8, 1.0F);
  const std::vector<float> back = decoded(nf4_quantize(tensor_of(values), false));
  double absolute = 0.0;
  double relative = 0.0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double error = std::fabs(static_cast<double>(back[i]) - static_cast<double>(values[i]));
    absolute += error;
    relative += error / (std::fabs(static_cast<double>(values[i])) + 1e-8);
  }
  EXPECT_NEAR(absolute / static_cast<double>(values.size()), 0.072798, 3 * 0.000074);
  EXPECT_NEAR(relative / static_cast<double>(values.size()), 0.203339, 3 * 0.000340);
}

}  // namespace
}  // namespace qlora
