// NF4 weights as tensors, and the store over them: the same bytes as the plain form, whatever is cached.
#include "qlora/quant/nf4_weight.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "qlora/core/error.h"
#include "qlora/quant/tensor_bytes.h"
#include "qlora/quant/weight_store.h"

namespace qlora {
namespace {

at::Tensor waves(const Shape& shape, double salt = 0.0) {
  return at::arange(*element_count(shape), at::kFloat).add(salt).mul(12.9898).sin().mul(0.02).view(shape);
}

void expect_equal(const Nf4Tensor& a, const Nf4Tensor& b) {
  EXPECT_EQ(a.shape, b.shape);
  EXPECT_EQ(a.dtype, b.dtype);
  EXPECT_EQ(a.codes, b.codes);
  EXPECT_EQ(a.absmax, b.absmax);
  EXPECT_EQ(a.absmax_codes, b.absmax_codes);
  EXPECT_EQ(a.nested_absmax, b.nested_absmax);
  EXPECT_EQ(a.nested_map, b.nested_map);
  EXPECT_EQ(a.nested_offset, b.nested_offset);
}

TEST(Nf4Weight, HasTheBytesOfThePlainForm) {
  for (const bool nested : {false, true}) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf}) {
      const at::Tensor values = waves({37, 45}).to(type);
      const Nf4Weight weight = nf4_quantize(values, at::kCPU, nested, "w");
      const Nf4Tensor plain = nf4_quantize(to_host_tensor(values), nested, "w");
      expect_equal(to_host(weight), plain);
      expect_equal(to_host(to_device(plain, at::kCPU)), plain);
      EXPECT_EQ(weight.bytes(), static_cast<std::int64_t>(
                                    plain.codes.size() + plain.absmax_codes.size() +
                                    4 * (plain.absmax.size() + plain.nested_absmax.size() + plain.nested_map.size())));
    }
  }
}

TEST(Nf4Weight, DecodesIntoRowsThatLieApart) {
  const Nf4Weight weight = nf4_quantize(waves({5, 24}), at::kCPU, true, "w");
  at::Tensor dense = at::zeros({5, 24});
  nf4_dequantize(weight, dense);
  at::Tensor wide = at::full({5, 40}, 7.0);
  nf4_dequantize(weight, wide.narrow(1, 0, 24));
  EXPECT_TRUE(wide.narrow(1, 0, 24).equal(dense));
  EXPECT_TRUE(wide.narrow(1, 24, 16).eq(7.0).all().item<bool>());
  at::Tensor exact = at::zeros({5, 24}, at::kDouble);
  nf4_dequantize(weight, exact);
  EXPECT_TRUE(exact.equal(dense.to(at::kDouble)));
}

WeightStore filled_store(std::int64_t cache) {
  WeightStore store(at::kCPU, at::kBFloat16, {true, true, cache});
  store.add({{"q", {6, 64}, true}, {"k", {2, 64}, true}});
  store.add({{"up", {9, 32}, true}});
  store.put("q", waves({6, 64}));
  store.put("k", waves({2, 64}, 0.5));
  store.put("up", nf4_quantize(to_host_tensor(waves({9, 32}, 0.7)), true));
  return store;
}

TEST(WeightStore, CachesWhatFitsAndGivesTheSameNumbers) {
  WeightStore without = filled_store(0), with = filled_store(8 * 64 * 2);
  for (int round = 0; round < 2; ++round) {
    for (const WeightStore::Group group : {0, 1})
      EXPECT_TRUE(without.materialize(group).equal(with.materialize(group)));
  }
  EXPECT_EQ(without.scratch_bytes(), 8 * 64 * 2);
  EXPECT_EQ(with.scratch_bytes(), 8 * 64 * 2 + 8 * 64 * 2);  // the cached group, and a buffer for the largest
  EXPECT_EQ(without.bytes(), with.bytes());
}

// What llm_int8_skip_modules names: the beginning of a name up to a dot, or its end.
TEST(WeightStore, LeavesNamedMembersDenseAmongOthers) {
  for (const char* dense : {"layers.1.k", "layers.1", "1.k", ".k"}) {
    WeightStore store(at::kCPU, at::kFloat, {true, true, 0, {dense}});
    store.add({{"layers.1.q.weight", {6, 64}, true}, {"layers.1.k.weight", {2, 64}, true}});
    store.add({{"layers.10.q.weight", {5, 64}, true}});
    const bool both = std::string(dense) == "layers.1";
    EXPECT_EQ(store.member("layers.1.q.weight").quantize, !both) << dense;
    EXPECT_FALSE(store.member("layers.1.k.weight").quantize) << dense;
    EXPECT_TRUE(store.member("layers.10.q.weight").quantize) << dense;
    store.put("layers.1.q.weight", waves({6, 64}));
    store.put("layers.1.k.weight", waves({2, 64}, 0.5));
    store.put("layers.10.q.weight", waves({5, 64}, 0.7));
    const at::Tensor group = store.materialize(0);
    EXPECT_TRUE(group.narrow(0, 6, 2).equal(waves({2, 64}, 0.5))) << dense;
    EXPECT_EQ(group.narrow(0, 0, 6).equal(waves({6, 64})), both) << dense;
    EXPECT_TRUE(store.dequantized("layers.1.k.weight").equal(waves({2, 64}, 0.5))) << dense;
    EXPECT_TRUE(store.missing().empty());
    EXPECT_EQ(store.bytes(), store.planned_bytes()) << dense;
  }
}

TEST(WeightStore, PlansTheBytesThatItThenHolds) {
  const std::int64_t first = 8 * 64 * 2;
  for (const std::int64_t cache : {std::int64_t{0}, first, 4 * first}) {
    WeightStore store = filled_store(cache);
    const std::int64_t weights = store.planned_bytes(), scratch = store.planned_scratch_bytes();
    for (const WeightStore::Group group : {0, 1}) store.materialize(group);
    EXPECT_EQ(store.bytes(), weights);
    EXPECT_EQ(store.scratch_bytes(), scratch);
  }
}

TEST(WeightStore, KeepsADenseTensorOfItsTypeAsItIs) {
  WeightStore store(at::kCPU, at::kFloat, {false, true, 0});
  store.add({{"embedding", {3, 64}, false}});
  const at::Tensor values = waves({3, 64});
  store.put("embedding", values);
  EXPECT_TRUE(store.materialize(0).is_same(values));
  const at::Tensor part = waves({6, 64}).narrow(0, 0, 3);  // would keep all six rows in memory
  store.put("embedding", part);
  EXPECT_FALSE(store.materialize(0).is_alias_of(part));
  EXPECT_TRUE(store.materialize(0).equal(part));
}

TEST(WeightStore, MovesADenseGroupToTheHost) {
  WeightStore store(at::kCPU, at::kFloat, {true, true, 0});
  store.add({{"embedding", {3, 64}, false}});
  store.add({{"q", {2, 64}, true}});
  EXPECT_ANY_THROW(store.move_to_host("embedding")) << "nothing is there yet";
  const at::Tensor values = waves({3, 64});
  store.put("embedding", values);
  store.move_to_host("embedding");
  EXPECT_FALSE(store.materialize(0).is_alias_of(values));
  EXPECT_TRUE(store.materialize(0).equal(values));
  store.put("q", waves({2, 64}));
  EXPECT_ANY_THROW(store.move_to_host("q")) << "is quantized";
}

TEST(WeightStore, TakesCodesOfItsDeviceAsTheyAre) {
  WeightStore store(at::kCPU, at::kFloat, {true, true, 0});
  store.add({{"q", {2, 64}, true}});
  store.add({{"norm", {64}, false}});
  const Nf4Weight codes = nf4_quantize(waves({2, 64}), at::kCPU, true, "q");
  store.put("q", codes);
  expect_equal(store.codes("q"), to_host(codes));
  EXPECT_THROW(store.put("q", nf4_quantize(waves({3, 64}), at::kCPU, true, "q")), DataError);
  EXPECT_ANY_THROW(store.put("norm", nf4_quantize(waves({64}), at::kCPU, true, "norm")));
  EXPECT_EQ(store.missing(), std::vector<std::string>{"norm"});
}

TEST(WeightStore, GivesItsCodesBack) {
  const WeightStore store = filled_store(0);
  expect_equal(store.codes("k"), nf4_quantize(to_host_tensor(waves({2, 64}, 0.5)), true));
  expect_equal(store.codes("up"), nf4_quantize(to_host_tensor(waves({9, 32}, 0.7)), true));
}

TEST(WeightStore, NamesTheTensorThatIsNotFinite) {
  WeightStore store(at::kCPU, at::kFloat, {true, true, 0});
  store.add({{"q", {2, 64}, true}});
  at::Tensor values = waves({2, 64});
  values[1][3] = std::numeric_limits<float>::infinity();
  try {
    store.put("q", values);
    FAIL();
  } catch (const DataError& error) {
    EXPECT_EQ(std::string(error.what()), "tensor 'q': holds NaN or Inf: the value at flat index 67 is infinite");
  }
  EXPECT_EQ(store.missing(), std::vector<std::string>{"q"});
}

}  // namespace
}  // namespace qlora
