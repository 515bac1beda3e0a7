#include "qlora/quant/nf4_serialized.h"

#include <cstring>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "qlora/core/error.h"

namespace qlora {
namespace {

using testing::HasSubstr;

class Nf4SerializedTest : public testing::Test {
 protected:
  Nf4SerializedTest() {
    for (std::size_t i = 0; i < values_.size(); ++i) values_[i] = static_cast<float>(i % 37) - 18.0F;
    store(true);
  }

  void store(bool nested) {
    parts_.clear();
    tensor_ = nf4_quantize(HostTensor{ElementType::kF32, {3, 333}, bytes_of(values_)}, nested);
    for (NamedTensor& part : nf4_serialize("x.weight", tensor_)) parts_[part.name] = std::move(part);
  }

  FindTensor find() const {
    return [this](const std::string& name) -> std::optional<HostTensor> {
      const auto part = parts_.find(name);
      if (part == parts_.end()) return std::nullopt;
      return HostTensor{part->second.type, part->second.shape, part->second.bytes};
    };
  }

  void replace_in_state(const std::string& from, const std::string& to) {
    NamedTensor& part = parts_.at("x.weight.quant_state.bitsandbytes__nf4");
    std::string text(reinterpret_cast<const char*>(part.bytes.data()), part.bytes.size());
    ASSERT_NE(text.find(from), std::string::npos) << text;
    text.replace(text.find(from), from.size(), to);
    const auto bytes = std::as_bytes(std::span(text));
    part.bytes.assign(bytes.begin(), bytes.end());
  }

  void expect_refused(const std::string& because) const {
    try {
      nf4_parse("x.weight", find());
      ADD_FAILURE() << "accepted; expected: " << because;
    } catch (const DataError& error) {
      EXPECT_THAT(error.what(), HasSubstr(because));
      EXPECT_THAT(error.what(), HasSubstr("x.weight"));
    }
  }

  std::vector<float> values_ = std::vector<float>(999);
  Nf4Tensor tensor_;
  std::map<std::string, NamedTensor> parts_;
};

TEST_F(Nf4SerializedTest, ComesBackAsItWas) {
  for (const bool nested : {false, true}) {
    store(nested);
    ASSERT_TRUE(nf4_is_serialized("x.weight", find()));
    EXPECT_EQ(nf4_stored("x.weight", find()).shape, tensor_.shape);
    EXPECT_EQ(nf4_stored("x.weight", find()).dtype, ElementType::kF32);
    EXPECT_EQ(nf4_stored("x.weight", find()).nested, nested);
    const Nf4Tensor back = nf4_parse("x.weight", find());
    EXPECT_EQ(back.shape, tensor_.shape);
    EXPECT_EQ(back.dtype, ElementType::kF32);
    EXPECT_EQ(back.codes, tensor_.codes);
    EXPECT_EQ(back.absmax, tensor_.absmax);
    EXPECT_EQ(back.absmax_codes, tensor_.absmax_codes);
    EXPECT_EQ(back.nested_absmax, tensor_.nested_absmax);
    EXPECT_EQ(back.nested_offset, tensor_.nested_offset);
  }
  EXPECT_TRUE(nf4_is_companion("x.weight.absmax"));
  EXPECT_FALSE(nf4_is_companion("x.weight"));
  EXPECT_FALSE(nf4_is_serialized("y.weight", find()));
}

TEST_F(Nf4SerializedTest, RefusesMissingParts) {
  for (const char* part : {"", ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map"}) {
    store(true);
    parts_.erase(std::string("x.weight") + part);
    expect_refused("missing");
  }
}

TEST_F(Nf4SerializedTest, RefusesWrongSizesAndTypes) {
  parts_.at("x.weight").bytes.pop_back();
  expect_refused("needs 500");
  store(true);
  parts_.at("x.weight.absmax").bytes.pop_back();
  expect_refused("needs 16");
  store(true);
  parts_.at("x.weight.nested_absmax").type = ElementType::kI32;
  expect_refused("not F32");
  store(false);
  parts_.at("x.weight.absmax").bytes.resize(60);
  expect_refused("16 are needed");
}

TEST_F(Nf4SerializedTest, RefusesOtherQuantizations) {
  replace_in_state("\"nf4\"", "\"fp4\"");
  expect_refused("not nf4");
  store(true);
  replace_in_state("\"blocksize\": 64", "\"blocksize\": 128");
  expect_refused("blocksize is not 64");
  store(true);
  replace_in_state("\"nested_blocksize\": 256", "\"nested_blocksize\": 128");
  expect_refused("nested_blocksize is not 256");
  store(true);
  replace_in_state("float32\"", "int8\"");
  expect_refused("int8");
  store(true);
  replace_in_state("[3, 333]", "[3, -333]");
  expect_refused("shape");
  store(true);
  replace_in_state("\"shape\"", "\"form\"");
  expect_refused("shape");
  store(true);
  replace_in_state("{", "[");
  expect_refused("x.weight.quant_state");
  store(true);
  parts_.at("x.weight.quant_map").bytes[0] ^= std::byte{1};
  expect_refused("not those of NF4");
  store(true);
  parts_["x.weight.quant_state.bitsandbytes__fp4"] = parts_.at("x.weight.quant_state.bitsandbytes__nf4");
  expect_refused("FP4");
}

TEST_F(Nf4SerializedTest, RefusesScalesThatAreNotFinite) {
  const std::uint32_t nan = 0x7fc00000;
  std::memcpy(parts_.at("x.weight.nested_absmax").bytes.data(), &nan, 4);
  expect_refused("NaN");
}

}  // namespace
}  // namespace qlora
