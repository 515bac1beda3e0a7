// Adapters on fused experts, as PEFT writes them over transformers 5, taken apart into one for each expert's linear.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <utility>

#include <fmt/format.h>

#include "qlora/adapters/peft.h"
#include "qlora/core/error.h"

namespace qlora {
namespace {

constexpr std::string_view kExperts = ".experts";
constexpr std::string_view kWrapped = ".experts.base_layer";

bool targets(const LoraConfig& config, const std::string& parameter) {
  return std::any_of(config.target_parameters.begin(), config.target_parameters.end(),
                     [&](const std::string& name) { return name == parameter || name.ends_with("." + parameter); });
}

// Rows [first, first + count) of a matrix.
HostTensor rows_of(const HostTensor& matrix, std::int64_t first, std::int64_t count) {
  const std::size_t row = static_cast<std::size_t>(matrix.shape[1]) * element_size(matrix.type);
  return {matrix.type,
          {count, matrix.shape[1]},
          matrix.bytes.subspan(static_cast<std::size_t>(first) * row, static_cast<std::size_t>(count) * row)};
}

// B [out, rank * experts], whose columns go through the experts first, as [experts * out, rank].
std::vector<std::byte> unfused_b(const HostTensor& b, std::int64_t experts) {
  const auto size = element_size(b.type);
  const auto out = static_cast<std::size_t>(b.shape[0]), count = static_cast<std::size_t>(experts);
  const std::size_t rank = static_cast<std::size_t>(b.shape[1]) / count;
  std::vector<std::byte> bytes(b.bytes.size());
  for (std::size_t o = 0; o < out; ++o) {
    for (std::size_t r = 0; r < rank; ++r) {
      for (std::size_t e = 0; e < count; ++e) {
        std::memcpy(&bytes[((e * out + o) * rank + r) * size], &b.bytes[((o * rank + r) * count + e) * size], size);
      }
    }
  }
  return bytes;
}

// One parameter of all experts of a layer.
struct Fused {
  std::string prefix;     // "model.layers.0.mlp.experts"
  std::string parameter;  // "gate_up_proj"
};

// PEFT wraps the parameters of a module one in the other, in the order in which the module has them.
std::optional<Fused> fused_parameter(const LoraAdapter& adapter, const std::string& module) {
  if (module.ends_with(kWrapped)) return Fused{module.substr(0, module.rfind('.')), "gate_up_proj"};
  if (!module.ends_with(kExperts)) return std::nullopt;
  return Fused{module, targets(adapter.config, "down_proj") ? "down_proj" : "gate_up_proj"};
}

// Each expert's linears have A, and their own rows of B.
void take_apart(const LoraMatrices& whole, const Fused& fused, std::int64_t rank, LoraAdapter& adapter) {
  const std::int64_t experts = whole.a.shape[0] / rank;
  if (experts < 1 || whole.a.shape[0] != experts * rank || whole.b.shape[1] != whole.a.shape[0]) {
    throw DataError(fmt::format("{}: adapter on '{}': A {} and B {} are not those of experts of rank {}",
                                adapter.file->path().string(), fused.prefix + "." + fused.parameter,
                                shape_text(whole.a.shape), shape_text(whole.b.shape), rank));
  }
  const auto bytes = std::make_shared<const std::vector<std::byte>>(unfused_b(whole.b, experts));
  adapter.own.push_back(bytes);
  const std::int64_t out = whole.b.shape[0];
  const HostTensor b{whole.b.type, {experts * out, rank}, *bytes};
  const bool pair = fused.parameter == "gate_up_proj";
  for (std::int64_t e = 0; e < experts; ++e) {
    const HostTensor a = rows_of(whole.a, e * rank, rank);
    const std::string name = fmt::format("{}.{}.", fused.prefix, e);
    if (!pair) {
      adapter.matrices.push_back({name + "down_proj", a, rows_of(b, e * out, out)});
      continue;
    }
    adapter.matrices.push_back({name + "gate_proj", a, rows_of(b, e * out, out / 2)});
    adapter.matrices.push_back({name + "up_proj", a, rows_of(b, e * out + out / 2, out - out / 2)});
  }
}

// By the names of all architectures: what the linears of fused parameters are called in checkpoints.
const char* linears_of(const std::string& parameter) {
  return parameter == "down_proj" ? R"(experts\.[0-9]+\.(down_proj|w2))"
                                  : R"(experts\.[0-9]+\.(gate_proj|up_proj|w1|w3))";
}

struct Scaled {
  std::int64_t rank;
  double alpha;
  friend bool operator==(const Scaled&, const Scaled&) = default;
};

Scaled scaled(const LoraConfig& config, const std::string& parameter) {
  const std::int64_t rank = lora_rank(config, parameter);
  const auto r = static_cast<double>(rank);
  return {rank, lora_scale(config, parameter) * (config.use_rslora ? std::sqrt(r) : r)};
}

}  // namespace

void unfuse_experts(LoraAdapter& adapter) {
  LoraConfig& config = adapter.config;
  if (config.target_parameters.empty()) return;
  const std::vector<LoraMatrices> whole = std::exchange(adapter.matrices, {});
  std::map<std::string, Scaled> found;  // of gate_up_proj and down_proj
  for (const LoraMatrices& matrices : whole) {
    const auto fused = fused_parameter(adapter, matrices.module);
    if (!fused) {
      adapter.matrices.push_back(matrices);
      continue;
    }
    const Scaled own = scaled(config, fused->prefix + "." + fused->parameter);
    if (found.try_emplace(fused->parameter, own).first->second != own) {
      throw UsageError(fmt::format("{}: experts with another rank or alpha in each layer are not supported yet",
                                   adapter.file->path().string()));
    }
    take_apart(matrices, *fused, own.rank, adapter);
    adapter.fused_experts = true;
  }
  for (const auto& [parameter, own] : found) {
    config.rank_pattern.emplace(config.rank_pattern.begin(), linears_of(parameter), own.rank);
    config.alpha_pattern.emplace(config.alpha_pattern.begin(), linears_of(parameter), own.alpha);
  }
  // Which linears carry an adapter is what the file says.
  config.target_parameters.clear();
  config.target_modules = {};
  for (const LoraMatrices& matrices : adapter.matrices) config.target_modules.names.push_back(matrices.module);
  config.exclude_modules = {};
  config.layers_to_transform.clear();
  config.layers_pattern.clear();
}

}  // namespace qlora
