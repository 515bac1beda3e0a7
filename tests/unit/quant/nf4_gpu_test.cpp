// The NF4 kernels against the CPU's form, to the bit.
#include <limits>

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <gtest/gtest.h>

#include "qlora/core/error.h"
#include "qlora/quant/nf4_weight.h"
#include "qlora/quant/tensor_bytes.h"
#include "qlora/quant/weight_store.h"

#include "support/gpu.h"

namespace qlora {
namespace {

const at::Device kGpu(at::kCUDA, 0);

using Nf4Gpu = GpuTest;

// How a tensor's values lie.
enum class Kind { kNormal, kZero, kSubnormal, kHuge, kMixed };

at::Tensor make_values(Kind kind, std::int64_t count, at::ScalarType type) {
  at::Tensor values = at::randn({count}).mul(0.02);
  if (kind == Kind::kZero) values.zero_();
  if (kind == Kind::kSubnormal) values.mul_(0x1p-124);
  if (kind == Kind::kHuge) values.mul_(type == at::kHalf ? 0x1p19 : 0x1p130).clamp_(-0x1p127, 0x1p127);
  if (kind == Kind::kHuge && type == at::kHalf) values.clamp_(-65000.0, 65000.0);
  if (kind == Kind::kMixed) {  // every block another size, some all zero
    for (std::int64_t b = 0; b * 64 < count; ++b) {
      const std::int64_t size = std::min<std::int64_t>(64, count - b * 64);
      values.narrow(0, b * 64, size).mul_(b % 5 == 0 ? 0.0 : std::ldexp(1.0, static_cast<int>(b % 24) - 12));
    }
  }
  return values.to(type);
}

template <typename T>
std::int64_t differing(const std::vector<T>& a, const std::vector<T>& b) {
  if (a.size() != b.size()) return std::numeric_limits<std::int64_t>::max();
  std::int64_t count = 0;
  for (std::size_t i = 0; i < a.size(); ++i) count += a[i] == b[i] ? 0 : 1;
  return count;
}

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  const auto type = a.element_size() == 4 ? at::kInt : at::kShort;
  return a.cpu().contiguous().view(type).equal(b.cpu().contiguous().view(type));
}

TEST_F(Nf4Gpu, QuantizesToTheBytesOfTheCpu) {
  std::int64_t codes = 0, codes_of_fp32 = 0, scales = 0, blocks = 0;
  for (const at::ScalarType type : {at::kBFloat16, at::kHalf, at::kFloat}) {
    for (const Kind kind : {Kind::kNormal, Kind::kZero, Kind::kSubnormal, Kind::kHuge, Kind::kMixed}) {
      for (const std::int64_t count : {1, 2, 7, 8, 63, 64, 65, 127, 1000, 4099, 64 * 256 + 3, 300001, 2048 * 5504}) {
        if (count > 1000000 && kind != Kind::kNormal) continue;
        SCOPED_TRACE(::testing::Message()
                     << "kind " << static_cast<int>(kind) << ", " << count << " values of " << at::toString(type));
        const at::Tensor values = make_values(kind, count, type);
        const Nf4Tensor cpu = nf4_quantize(to_host_tensor(values), false);
        const Nf4Tensor gpu = to_host(nf4_quantize(values, kGpu, false, "w"));
        EXPECT_EQ(differing(gpu.absmax, cpu.absmax), 0);
        (type == at::kFloat ? codes_of_fp32 : codes) += differing(gpu.codes, cpu.codes);
        if (kind == Kind::kHuge) continue;  // sums of such scales leave fp32
        const Nf4Tensor nested_cpu = nf4_quantize(to_host_tensor(values), true);
        const Nf4Tensor nested = to_host(nf4_quantize(values, kGpu, true, "w"));
        EXPECT_EQ(nested.nested_offset, nested_cpu.nested_offset);
        EXPECT_EQ(nested.nested_absmax, nested_cpu.nested_absmax);
        EXPECT_EQ(nested.nested_map, nested_cpu.nested_map);
        scales += differing(nested.absmax_codes, nested_cpu.absmax_codes);
        blocks += static_cast<std::int64_t>(nested.absmax_codes.size());
      }
    }
  }
  EXPECT_EQ(codes, 0);
  // The GPU's reciprocal is off by an ulp now and then: about one code of fp32 values in 17 million.
  EXPECT_LE(codes_of_fp32, 4);
  EXPECT_LE(scales, 1) << "of " << blocks;
}

TEST_F(Nf4Gpu, DecodesToTheBitsOfTheCpu) {
  for (const Kind kind : {Kind::kNormal, Kind::kZero, Kind::kSubnormal, Kind::kMixed}) {
    for (const std::int64_t count : {1, 7, 8, 64, 65, 1000, 4099, 64 * 256 + 3, 300001}) {
      for (const bool nested : {false, true}) {
        const Nf4Weight gpu = nf4_quantize(make_values(kind, count, at::kBFloat16), kGpu, nested, "w");
        const Nf4Weight cpu = to_device(to_host(gpu), at::kCPU);
        for (const at::ScalarType type : {at::kBFloat16, at::kHalf, at::kFloat}) {
          SCOPED_TRACE(::testing::Message() << "kind " << static_cast<int>(kind) << ", " << count << " values to "
                                            << at::toString(type) << (nested ? ", nested" : ""));
          const at::Tensor expected = at::empty({count}, type);
          const at::Tensor got = at::empty({count}, expected.options().device(kGpu));
          nf4_dequantize(cpu, expected);
          nf4_dequantize(gpu, got);
          EXPECT_TRUE(same_bits(got, expected));
        }
      }
    }
  }
}

TEST_F(Nf4Gpu, DecodesIntoRowsThatLieApartAndNothingElse) {
  for (const auto& [rows, columns, pitch] : {std::array<std::int64_t, 3>{5, 24, 40},
                                             {3, 64, 64},
                                             {7, 13, 29},
                                             {130, 4096, 4112},
                                             {130, 4096, 4099},
                                             {1, 50, 64}}) {
    for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {
      SCOPED_TRACE(::testing::Message() << rows << " x " << columns << " in " << pitch);
      const at::Tensor values = make_values(Kind::kNormal, rows * columns, at::kBFloat16).view({rows, columns});
      const Nf4Weight gpu = nf4_quantize(values, kGpu, true, "w");
      const at::Tensor expected = at::empty({rows, columns}, type);
      nf4_dequantize(to_device(to_host(gpu), at::kCPU), expected);
      const at::Tensor out = at::full({rows, pitch}, 7.0, at::TensorOptions().device(kGpu).dtype(type));
      nf4_dequantize(gpu, out.narrow(1, 0, columns));
      EXPECT_TRUE(same_bits(out.narrow(1, 0, columns), expected));
      EXPECT_TRUE(out.narrow(1, columns, pitch - columns).eq(7.0).all().item<bool>());
    }
  }
}

TEST_F(Nf4Gpu, RefusesNanAndInfWithTheirIndex) {
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), -std::numeric_limits<double>::infinity()}) {
    at::Tensor values = make_values(Kind::kNormal, 100003, at::kBFloat16);
    values[77777] = bad;
    values[100002] = bad;
    try {
      nf4_quantize(values, kGpu, true, "layers.0.up");
      FAIL();
    } catch (const DataError& error) {
      EXPECT_NE(std::string(error.what()).find("'layers.0.up': holds NaN or Inf: the value at flat index 77777"),
                std::string::npos)
          << error.what();
    }
  }
  EXPECT_THROW(nf4_quantize(at::full({512}, 0x1.8p127, at::kFloat), kGpu, true, "w"), DataError);
}

// More than 2^31 values: the ends, the middle and what lies around 2^31 against the CPU; all scales.
TEST_F(Nf4Gpu, CountsBeyond32Bits) {
  constexpr std::int64_t kCount = (std::int64_t{1} << 31) + 3 * 64 + 5;
  constexpr std::int64_t kPart = 1 << 20;
  at::Tensor values = at::randn({kCount}, at::TensorOptions().device(kGpu).dtype(at::kBFloat16));
  const Nf4Weight plain = nf4_quantize(values, kGpu, false, "w");
  const Nf4Weight nested = nf4_quantize(values, kGpu, true, "w");
  const auto blocks = static_cast<std::size_t>(nf4_blocks(kCount));
  const at::Tensor absmax = plain.absmax.cpu();
  std::vector<std::uint8_t> absmax_codes(blocks);
  std::vector<float> nested_absmax(static_cast<std::size_t>(nf4_nested_blocks(nf4_blocks(kCount))));
  const float offset =
      nf4_nest_absmax(absmax.const_data_ptr<float>(), nf4_blocks(kCount), absmax_codes.data(), nested_absmax.data());
  const Nf4Tensor host = to_host(nested);
  EXPECT_EQ(host.nested_offset, offset);
  EXPECT_LE(differing(host.absmax_codes, absmax_codes), 2);
  EXPECT_EQ(differing(host.nested_absmax, nested_absmax), 0);

  const at::Tensor decoded = at::empty({kCount}, values.options());
  nf4_dequantize(nested, decoded);
  for (const std::int64_t begin :
       {std::int64_t{0}, std::int64_t{1} << 30, (std::int64_t{1} << 31) - kPart / 2, (kCount - kPart) / 64 * 64}) {
    const std::int64_t count = std::min(2 * kPart, kCount - begin);
    const Nf4Tensor part = nf4_quantize(to_host_tensor(values.narrow(0, begin, count).cpu()), false);
    const std::vector<std::uint8_t> codes(host.codes.begin() + begin / 2,
                                          host.codes.begin() + begin / 2 + nf4_code_bytes(count));
    EXPECT_EQ(differing(codes, part.codes), 0) << begin;
    const at::Tensor expected = at::empty({count}, at::kBFloat16);
    nf4_dequantize(host.view(), begin, count, ElementType::kBF16, expected.mutable_data_ptr());
    EXPECT_TRUE(same_bits(decoded.narrow(0, begin, count), expected)) << begin;
  }
}

TEST_F(Nf4Gpu, TheStoreHoldsCodesAndOneTensorAtATime) {
  constexpr std::int64_t kRows = 1024, kColumns = 2048;
  constexpr std::int64_t kTensorBytes = 2 * kRows * kColumns;
  auto* allocator = c10::getDeviceAllocator(at::kCUDA);
  const auto allocated = [&] { return allocator->getDeviceStats(0).allocated_bytes[0]; };
  allocator->resetPeakStats(0);
  const std::int64_t before = allocated().current;
  WeightStore cpu(at::kCPU, at::kBFloat16, {true, true, 0});
  WeightStore gpu(kGpu, at::kBFloat16, {true, true, 0});
  WeightStore cached(kGpu, at::kBFloat16, {true, true, std::int64_t{1} << 30});
  for (WeightStore* store : {&cpu, &gpu, &cached}) {
    store->add({{"q", {kRows, kColumns}, true}, {"k", {kRows / 4, kColumns}, true}});
    store->add({{"up", {2 * kRows, kColumns}, true}});
  }
  const auto put = [&](const char* name, std::int64_t rows) {
    const at::Tensor values = make_values(Kind::kNormal, rows * kColumns, at::kBFloat16).view({rows, kColumns});
    for (WeightStore* store : {&cpu, &gpu, &cached}) store->put(name, values);
  };
  put("q", kRows);
  put("k", kRows / 4);
  put("up", 2 * kRows);
  EXPECT_LE(allocated().peak - before, 2 * kTensorBytes + gpu.bytes() + cached.bytes() + (1 << 22));
  EXPECT_EQ(gpu.codes("k").codes, cpu.codes("k").codes);
  EXPECT_EQ(gpu.bytes(), cpu.bytes());
  for (int round = 0; round < 2; ++round) {
    for (const WeightStore::Group group : {0, 1}) {
      EXPECT_TRUE(same_bits(gpu.materialize(group), cpu.materialize(group)));
      EXPECT_TRUE(same_bits(cached.materialize(group), cpu.materialize(group)));
    }
  }
  EXPECT_TRUE(gpu.dequantized("up").equal(cpu.dequantized("up")));
}

// Against the product with the weights that dequantization gives, in float64.
TEST_F(Nf4Gpu, MultipliesFewRowsAsDequantizedWeightsDo) {
  at::manual_seed(5);
  for (const bool nested : {true, false}) {
    for (const at::ScalarType type : {at::kBFloat16, at::kHalf, at::kFloat}) {
      for (const std::int64_t first : {16, 12}) {  // tiles of 16 rows for tensor cores, or not
        WeightStore store(kGpu, type, {true, nested, 0});
        const auto group =
            store.add({{"q", {48, 1344}, true}, {"k", {first, 1344}, true}, {"v", {32 - first, 1344}, true}});
        const auto odd = store.add({{"odd", {64, 100}, true}});
        for (const char* name : {"q", "k", "v", "odd"})
          store.put(name, at::randn(store.member(name).shape).mul(0.02).to(type));
        const at::Tensor weights = store.materialize(group).to(at::kDouble);
        for (std::int64_t rows = 1; rows <= 8; ++rows) {
          const auto options = at::TensorOptions().device(kGpu);
          const at::Tensor x = at::randn({rows, 1344}, options).to(type);
          const at::Tensor addend = at::randn({rows, 80}, options).to(type);
          const at::Tensor bias = at::randn({80}, options).to(type);
          at::Tensor out = at::full({rows, 80}, std::nan(""), options).to(type);
          const at::Tensor product = at::matmul(x.to(at::kDouble), weights.t());
          const auto expect = [&](const at::Tensor& want, const char* what) {
            const double distance = ((out.to(at::kDouble) - want).norm() / want.norm()).item<double>();
            EXPECT_LE(distance, type == at::kFloat ? 1e-6 : 6e-3) << what << ", " << rows << " rows of " << type;
          };
          ASSERT_TRUE(store.multiply(group, x, {}, {}, out));
          expect(product, "plain");
          ASSERT_TRUE(store.multiply(group, x, addend, bias, out));
          expect(product + addend.to(at::kDouble) + bias.to(at::kDouble), "with addend and bias");
          out.copy_(addend);
          ASSERT_TRUE(store.multiply(group, x, out, {}, out));
          expect(product + addend.to(at::kDouble), "added to itself");
        }
        const at::Tensor none;
        const at::Tensor nine = at::zeros({9, 1344}, at::TensorOptions().device(kGpu).dtype(type));
        EXPECT_FALSE(store.multiply(group, nine, none, none, at::empty({9, 80}, nine.options())));
        EXPECT_FALSE(
            store.multiply(odd, nine.narrow(0, 0, 1).narrow(1, 0, 100), none, none, at::empty({1, 64}, nine.options())))
            << "a row that begins within a block";
      }
    }
  }
}

}  // namespace
}  // namespace qlora
