#include "qlora/adapters/peft.h"

#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "qlora/core/atomic_file.h"
#include "qlora/core/error.h"
#include "qlora/core/quote.h"
#include "qlora/formats/model_folder.h"

namespace qlora {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfigFile = "adapter_config.json";
constexpr std::string_view kPrefix = "base_model.model.";
constexpr std::string_view kA = ".lora_A.weight";
constexpr std::string_view kB = ".lora_B.weight";
constexpr const char* kRecordKey = "qlora";

std::string key_of(const std::string& module, std::string_view suffix) {
  return std::string(kPrefix) + module + std::string(suffix);
}

[[noreturn]] void fail(const SafetensorsFile& file, std::string_view tensor, const std::string& problem) {
  throw DataError(fmt::format("{}: tensor {}: {}", file.path().string(), quote_name(tensor), problem));
}

// The module's name out of "base_model.model.MODULE.lora_A.weight".
std::string module_of(const SafetensorsFile& file, const std::string& key) {
  const auto unsupported = [&](const std::string& feature) {
    throw UsageError(
        fmt::format("{}: tensor {}: {} are not supported yet", file.path().string(), quote_name(key), feature));
  };
  if (!key.starts_with(kPrefix)) fail(file, key, fmt::format("its name does not begin with {}", kPrefix));
  for (const std::string_view suffix : {kA, kB}) {
    if (key.size() > kPrefix.size() + suffix.size() && key.ends_with(suffix)) {
      return key.substr(kPrefix.size(), key.size() - kPrefix.size() - suffix.size());
    }
  }
  if (key.find(".lora_embedding_") != std::string::npos) unsupported("adapters on embeddings");
  if (key.ends_with(".lora_magnitude_vector")) unsupported("DoRA adapters");
  if (key.ends_with(".lora_B.bias")) unsupported("biases on B");
  unsupported("modules saved whole beside the adapter");
  return {};
}

void check_values(const SafetensorsFile& file, const std::string& key, const HostTensor& tensor) {
  if (tensor.type != ElementType::kF32 && tensor.type != ElementType::kF16 && tensor.type != ElementType::kBF16) {
    fail(file, key, fmt::format("its type {} is not F32, F16 or BF16", element_name(tensor.type)));
  }
  if (tensor.shape.size() != 2) fail(file, key, fmt::format("its shape {} is no matrix", shape_text(tensor.shape)));
  if (const auto at = first_not_finite(tensor)) {
    fail(
        file, key,
        fmt::format("its value at row {}, column {} is NaN or infinite", *at / tensor.shape[1], *at % tensor.shape[1]));
  }
}

LoraMatrices read_matrices(const SafetensorsFile& file, const LoraConfig& config, const std::string& module) {
  const std::string key_a = key_of(module, kA);
  const std::string key_b = key_of(module, kB);
  if (!file.contains(key_a)) fail(file, key_b, "its partner lora_A is missing");
  if (!file.contains(key_b)) fail(file, key_a, "its partner lora_B is missing");
  LoraMatrices matrices{module, file.tensor(key_a), file.tensor(key_b)};
  check_values(file, key_a, matrices.a);
  check_values(file, key_b, matrices.b);
  const std::int64_t rank = lora_rank(config, module);
  if (matrices.a.shape[0] != rank) {
    fail(file, key_a,
         fmt::format("its shape is {}, but adapter_config.json gives it rank {}", shape_text(matrices.a.shape), rank));
  }
  if (matrices.b.shape[1] != rank) {
    fail(file, key_b,
         fmt::format("its shape is {}, but adapter_config.json gives it rank {}", shape_text(matrices.b.shape), rank));
  }
  return matrices;
}

std::optional<AdapterRecord> read_record(const SafetensorsFile& file) {
  const auto at = file.metadata().find(kRecordKey);
  if (at == file.metadata().end()) return std::nullopt;
  const std::string origin = fmt::format("{}: metadata '{}'", file.path().string(), kRecordKey);
  const Json json = parse_json(at->second, origin);
  try {
    return AdapterRecord{json.at("quant_type"), json.at("nested"), json.at("dtype"), json.at("base_config"),
                         json.at("base_weights")};
  } catch (const Json::exception& error) {
    throw DataError(fmt::format("{}: {}", origin, error.what()));
  }
}

std::string record_text(const AdapterRecord& record) {
  return Json{{"quant_type", record.quant_type},
              {"nested", record.nested},
              {"dtype", record.dtype},
              {"base_config", record.base_config},
              {"base_weights", record.base_weights}}
      .dump();
}

fs::path weight_file(const fs::path& folder) {
  std::error_code error;
  for (const char* pickle : {"adapter_model.bin", "adapter_model.pt"}) {
    if (fs::exists(folder / pickle, error) && !fs::exists(folder / kAdapterWeightFile, error)) {
      throw DataError(
          fmt::format("{}: {} is a Python pickle, which can run any code when it is opened; only {} is read",
                      folder.string(), pickle, kAdapterWeightFile));
    }
  }
  return resolve_inside(folder, kAdapterWeightFile);
}

}  // namespace

LoraAdapter load_lora_adapter(const fs::path& folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) throw DataError(fmt::format("{}: no such adapter folder", folder.string()));
  LoraAdapter adapter;
  const std::string origin = (folder / kConfigFile).string();
  adapter.config = parse_lora_config(read_json(resolve_inside(folder, kConfigFile)), origin);
  adapter.file = std::make_shared<const SafetensorsFile>(weight_file(folder));
  adapter.record = read_record(*adapter.file);

  std::set<std::string> modules;
  for (const SafetensorsEntry& entry : adapter.file->entries())
    modules.insert(module_of(*adapter.file, entry.spec.name));
  if (modules.empty()) throw DataError(fmt::format("{}: it holds no tensor", adapter.file->path().string()));
  for (const std::string& module : modules) {
    adapter.matrices.push_back(read_matrices(*adapter.file, adapter.config, module));
  }
  return adapter;
}

void check_lora_adapter(const LoraAdapter& adapter, const std::map<std::string, Shape>& linears,
                        const std::string& output_head) {
  const SafetensorsFile& file = *adapter.file;
  for (const LoraMatrices& matrices : adapter.matrices) {
    const std::string key_a = key_of(matrices.module, kA);
    const auto linear = linears.find(matrices.module);
    if (linear == linears.end()) fail(file, key_a, "the base has no such linear: the adapter belongs to another model");
    const Shape& weight = linear->second;
    if (matrices.a.shape[1] != weight.at(1) || matrices.b.shape[0] != weight.at(0)) {
      fail(file, key_a,
           fmt::format("A {} and B {} do not fit the base's weight {}: the adapter belongs to another model",
                       shape_text(matrices.a.shape), shape_text(matrices.b.shape), shape_text(weight)));
    }
  }
  std::vector<std::string> names;
  for (const auto& [name, shape] : linears) names.push_back(name);
  for (const std::string& module : lora_targets(adapter.config, names, output_head)) {
    if (!file.contains(key_of(module, kA))) {
      fail(file, key_of(module, kA), "it is missing, though adapter_config.json targets that module");
    }
  }
}

void save_lora_adapter(const fs::path& folder, const LoraConfig& config, const std::vector<LoraMatrices>& matrices,
                       const std::optional<AdapterRecord>& record) {
  std::map<std::string, HostTensor> tensors;
  std::set<std::string> last_parts;
  for (const LoraMatrices& pair : matrices) {
    tensors[key_of(pair.module, kA)] = pair.a;
    tensors[key_of(pair.module, kB)] = pair.b;
    last_parts.insert(pair.module.substr(pair.module.rfind('.') + 1));
  }
  StringMap metadata = {{"format", "pt"}};
  if (record) metadata[kRecordKey] = record_text(*record);
  write_safetensors(folder / kAdapterWeightFile, tensors, std::move(metadata));

  LoraConfig written = config;
  if (written.target_modules.all_linear()) written.target_modules.names.assign(last_parts.begin(), last_parts.end());
  std::sort(written.target_modules.names.begin(), written.target_modules.names.end());
  write_file_atomically(folder / kConfigFile, lora_config_text(written));
}

}  // namespace qlora
