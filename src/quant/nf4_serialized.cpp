#include "qlora/quant/nf4_serialized.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <string_view>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "qlora/core/error.h"
#include "qlora/core/json.h"
#include "qlora/core/quote.h"

namespace qlora {
namespace {

constexpr const char* kState = ".quant_state.bitsandbytes__nf4";
constexpr const char* kFp4State = ".quant_state.bitsandbytes__fp4";

struct TorchName {
  ElementType type;
  const char* name;
};
constexpr std::array<TorchName, 3> kTorchNames = {
    {{ElementType::kBF16, "bfloat16"}, {ElementType::kF16, "float16"}, {ElementType::kF32, "float32"}}};

// As Python writes a float: 1.0, 0.05, 1e-05.
std::string python_float(double value) {
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".en") == std::string::npos) text += ".0";
  return text;
}

// json.dumps of bitsandbytes' dictionary, byte for byte.
std::string state_text(const Nf4Tensor& tensor) {
  const auto* type = std::find_if(kTorchNames.begin(), kTorchNames.end(),
                                  [&](const TorchName& known) { return known.type == tensor.dtype; });
  std::string text = fmt::format(R"({{"quant_type": "nf4", "blocksize": {}, "dtype": "{}", "shape": {})", kNf4Block,
                                 type->name, shape_text(tensor.shape));
  if (tensor.nested()) {
    text += fmt::format(R"(, "nested_blocksize": {}, "nested_dtype": "float32", "nested_offset": {})", kNf4NestedBlock,
                        python_float(static_cast<double>(tensor.nested_offset)));
  }
  return text + "}";
}

template <class T>
NamedTensor named(const std::string& name, ElementType type, const T& values) {
  const auto bytes = std::as_bytes(std::span(values.data(), values.size()));
  return {name, type, {static_cast<std::int64_t>(values.size())}, {bytes.begin(), bytes.end()}};
}

// One weight's parts, each checked as it is read.
class Parser {
 public:
  Parser(const std::string& name, const FindTensor& find) : name_(name), find_(find) {}

  Nf4Stored stored() {
    if (find_(name_ + kFp4State)) fail(name_, "it is stored in FP4; only NF4 is supported");
    read_state();
    return {tensor_.shape, tensor_.dtype, nested_};
  }

  Nf4Tensor parse() {
    stored();
    const std::int64_t count = element_count(tensor_.shape).value_or(-1);
    if (count < 0) fail(name_ + kState, fmt::format("its shape {} is too large", shape_text(tensor_.shape)));
    const std::int64_t blocks = nf4_blocks(count);
    // Stored as bytes whatever type the shards were packed into.
    tensor_.codes = bytes(name_, nf4_code_bytes(count));
    check_code_values();
    if (nested_) {
      tensor_.absmax_codes = bytes(name_ + ".absmax", blocks);
      tensor_.nested_absmax = floats(name_ + ".nested_absmax", nf4_nested_blocks(blocks));
      tensor_.nested_map = floats(name_ + ".nested_quant_map", 256);
    } else {
      tensor_.absmax = floats(name_ + ".absmax", blocks);
    }
    return std::move(tensor_);
  }

 private:
  [[noreturn]] static void fail(const std::string& key, const std::string& problem) {
    throw DataError(fmt::format("tensor {}: {}", quote_name(key), problem));
  }

  HostTensor get(const std::string& key) const {
    const std::optional<HostTensor> tensor = find_(key);
    if (!tensor) fail(key, "it is missing, but belongs to a weight stored in 4 bits");
    return *tensor;
  }

  void read_state() {
    const std::string key = name_ + kState;
    const HostTensor stored = get(key);
    const Json state = parse_json({reinterpret_cast<const char*>(stored.bytes.data()), stored.bytes.size()},
                                  fmt::format("tensor {}", quote_name(key)));
    try {
      if (state.at("quant_type") != "nf4") fail(key, "its quant_type is not nf4");
      if (state.at("blocksize") != kNf4Block) fail(key, fmt::format("its blocksize is not {}", kNf4Block));
      tensor_.shape = state.at("shape").get<Shape>();
      tensor_.dtype = type_of(key, state.at("dtype"));
      nested_ = state.contains("nested_offset");
      if (!nested_) return;
      if (state.at("nested_blocksize") != kNf4NestedBlock) {
        fail(key, fmt::format("its nested_blocksize is not {}", kNf4NestedBlock));
      }
      tensor_.nested_offset = state.at("nested_offset").get<float>();
      if (!std::isfinite(tensor_.nested_offset)) fail(key, "its nested_offset is not finite");
    } catch (const Json::exception& error) {
      fail(key, error.what());
    }
  }

  static ElementType type_of(const std::string& key, const std::string& name) {
    for (const TorchName& known : kTorchNames) {
      if (known.name == name) return known.type;
    }
    fail(key, fmt::format("its dtype {} is not supported", quote_name(name)));
  }

  std::vector<std::uint8_t> bytes(const std::string& key, std::int64_t size) const {
    const HostTensor tensor = get(key);
    if (static_cast<std::int64_t>(tensor.bytes.size()) != size) {
      fail(key, fmt::format("it holds {} bytes, but the weight's shape {} needs {}", tensor.bytes.size(),
                            shape_text(tensor_.shape), size));
    }
    const auto* data = reinterpret_cast<const std::uint8_t*>(tensor.bytes.data());
    return {data, data + size};
  }

  std::vector<float> floats(const std::string& key, std::int64_t size) const {
    const HostTensor tensor = get(key);
    if (tensor.type != ElementType::kF32) {
      fail(key, fmt::format("its type is {}, not F32", element_name(tensor.type)));
    }
    if (tensor.count() != size) fail(key, fmt::format("it holds {} values, {} are needed", tensor.count(), size));
    if (const auto at = first_not_finite(tensor)) fail(key, fmt::format("its value {} is NaN or infinite", *at));
    return to_float32(tensor);
  }

  void check_code_values() const {
    const std::string key = name_ + ".quant_map";
    const std::vector<float> values = floats(key, 16);
    if (!std::equal(values.begin(), values.end(), kNf4Code.begin())) fail(key, "its values are not those of NF4");
  }

  const std::string& name_;
  const FindTensor& find_;
  Nf4Tensor tensor_;
  bool nested_ = false;
};

}  // namespace

std::vector<NamedTensor> nf4_serialize(const std::string& name, const Nf4Tensor& tensor) {
  std::vector<NamedTensor> parts;
  parts.push_back(named(name, ElementType::kU8, tensor.codes));
  parts.back().shape.push_back(1);
  if (tensor.nested()) {
    parts.push_back(named(name + ".absmax", ElementType::kU8, tensor.absmax_codes));
    parts.push_back(named(name + ".nested_absmax", ElementType::kF32, tensor.nested_absmax));
    parts.push_back(named(name + ".nested_quant_map", ElementType::kF32, tensor.nested_map));
  } else {
    parts.push_back(named(name + ".absmax", ElementType::kF32, tensor.absmax));
  }
  parts.push_back(named(name + ".quant_map", ElementType::kF32, kNf4Code));
  parts.push_back(named(name + kState, ElementType::kU8, state_text(tensor)));
  return parts;
}

bool nf4_is_companion(const std::string& key) {
  static constexpr std::array<std::string_view, 6> kSuffixes = {".weight.absmax",
                                                                ".weight.quant_map",
                                                                ".weight.nested_absmax",
                                                                ".weight.nested_quant_map",
                                                                ".weight.quant_state.bitsandbytes__nf4",
                                                                ".weight.quant_state.bitsandbytes__fp4"};
  return std::any_of(kSuffixes.begin(), kSuffixes.end(),
                     [&](std::string_view suffix) { return key.ends_with(suffix); });
}

bool nf4_is_serialized(const std::string& name, const FindTensor& find) {
  return find(name + kState).has_value() || find(name + kFp4State).has_value();
}

Nf4Stored nf4_stored(const std::string& name, const FindTensor& find) {
  return Parser(name, find).stored();
}

Nf4Tensor nf4_parse(const std::string& name, const FindTensor& find) {
  return Parser(name, find).parse();
}

}  // namespace qlora
