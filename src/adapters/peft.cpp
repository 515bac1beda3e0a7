#include "qlora/adapters/peft.h"

#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "qlora/core/atomic_file.h"
#include "qlora/core/error.h"
#include "qlora/core/hash.h"
#include "qlora/core/quote.h"
#include "qlora/formats/mapped_file.h"
#include "qlora/formats/model_folder.h"

namespace qlora {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfigFile = "adapter_config.json";
constexpr std::string_view kPrefix = "base_model.model.";
constexpr std::string_view kA = ".lora_A.weight";
constexpr std::string_view kB = ".lora_B.weight";
constexpr std::string_view kEmbeddingA = ".lora_embedding_A";
constexpr std::string_view kEmbeddingB = ".lora_embedding_B";
constexpr std::string_view kMagnitude = ".lora_magnitude_vector";
// Beside adapters on embedding or output head PEFT keeps a copy of the base's own weight.
constexpr std::string_view kBase = ".base_layer.weight";
constexpr const char* kRecordKey = "qlora";

std::string key_of(const std::string& module, std::string_view suffix) {
  return std::string(kPrefix) + module + std::string(suffix);
}

[[noreturn]] void fail(const SafetensorsFile& file, std::string_view tensor, const std::string& problem) {
  throw DataError(fmt::format("{}: tensor {}: {}", file.path().string(), quote_name(tensor), problem));
}

// The module's name out of "base_model.model.MODULE.lora_A.weight"; empty for what is no part of an adapter.
std::string module_of(const SafetensorsFile& file, const std::string& key) {
  if (!key.starts_with(kPrefix)) fail(file, key, fmt::format("its name does not begin with {}", kPrefix));
  for (const std::string_view suffix : {kA, kB, kEmbeddingA, kEmbeddingB, kMagnitude}) {
    if (key.size() > kPrefix.size() + suffix.size() && key.ends_with(suffix)) {
      return key.substr(kPrefix.size(), key.size() - kPrefix.size() - suffix.size());
    }
  }
  if (key.ends_with(".lora_B.bias")) {
    throw UsageError(
        fmt::format("{}: tensor {}: biases on B are not supported yet", file.path().string(), quote_name(key)));
  }
  return {};
}

void check_values(const SafetensorsFile& file, const std::string& key, const HostTensor& tensor,
                  std::size_t dimensions) {
  if (tensor.type != ElementType::kF32 && tensor.type != ElementType::kF16 && tensor.type != ElementType::kBF16) {
    fail(file, key, fmt::format("its type {} is not F32, F16 or BF16", element_name(tensor.type)));
  }
  if (tensor.shape.size() != dimensions) {
    fail(file, key,
         fmt::format("its shape {} is no {}", shape_text(tensor.shape), dimensions == 1 ? "vector" : "matrix"));
  }
  if (const auto at = first_not_finite(tensor)) {
    const std::int64_t columns = tensor.shape.back();
    fail(file, key, fmt::format("its value at row {}, column {} is NaN or infinite", *at / columns, *at % columns));
  }
}

bool is_fused_experts(const LoraConfig& config, const std::string& module) {
  return !config.target_parameters.empty() && (module.ends_with(".experts") || module.ends_with(".experts.base_layer"));
}

LoraMatrices read_matrices(const SafetensorsFile& file, const LoraConfig& config, const std::string& module) {
  const bool embedding = file.contains(key_of(module, kEmbeddingA)) || file.contains(key_of(module, kEmbeddingB));
  const std::string key_a = key_of(module, embedding ? kEmbeddingA : kA);
  const std::string key_b = key_of(module, embedding ? kEmbeddingB : kB);
  const std::string key_m = key_of(module, kMagnitude);
  if (!file.contains(key_a)) fail(file, file.contains(key_b) ? key_b : key_m, "its partner lora_A is missing");
  if (!file.contains(key_b)) fail(file, key_a, "its partner lora_B is missing");
  LoraMatrices matrices{module, file.tensor(key_a), file.tensor(key_b), {}, embedding};
  check_values(file, key_a, matrices.a, 2);
  check_values(file, key_b, matrices.b, 2);
  if (file.contains(key_m) != config.use_dora) {
    fail(file, key_m,
         config.use_dora ? "it is missing, though adapter_config.json says use_dora"
                         : "it is there, though adapter_config.json does not say use_dora");
  }
  if (config.use_dora) {
    if (embedding) {
      throw UsageError(fmt::format("{}: tensor {}: DoRA on an embedding is not supported yet", file.path().string(),
                                   quote_name(key_m)));
    }
    matrices.magnitude = file.tensor(key_m);
    check_values(file, key_m, *matrices.magnitude, 1);
    if (matrices.magnitude->shape[0] != matrices.b.shape[0]) {
      fail(file, key_m,
           fmt::format("its shape is {}, but lora_B has {} rows", shape_text(matrices.magnitude->shape),
                       matrices.b.shape[0]));
    }
  }
  if (is_fused_experts(config, module)) return matrices;  // of all experts' ranks together
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

// A tensor of modules_to_save under its plain name.
std::optional<SavedWeight> read_saved(const SafetensorsFile& file, const LoraConfig& config, const std::string& key) {
  if (key.ends_with(kBase)) return std::nullopt;
  const std::string name = key.substr(kPrefix.size());
  if (!saves_module(config, name.substr(0, name.rfind('.')))) {
    fail(file, key, "it is no part of an adapter, and adapter_config.json's modules_to_save does not name it");
  }
  SavedWeight saved{name, file.tensor(key)};
  check_values(file, key, saved.values, saved.values.shape.size() == 1 ? 1 : 2);
  return saved;
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

std::string adapter_identity(const fs::path& folder) {
  Sha256 hash;
  for (const fs::path& file : {weight_file(folder), resolve_inside(folder, kConfigFile)}) {
    hash.update(MappedFile(file).text());
  }
  return hash.hex();
}

LoraAdapter load_lora_adapter(const fs::path& folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) throw DataError(fmt::format("{}: no such adapter folder", folder.string()));
  LoraAdapter adapter;
  const std::string origin = (folder / kConfigFile).string();
  adapter.config = parse_lora_config(read_json(resolve_inside(folder, kConfigFile)), origin);
  adapter.file = std::make_shared<const SafetensorsFile>(weight_file(folder));
  adapter.record = read_record(*adapter.file);

  std::set<std::string> modules;
  for (const SafetensorsEntry& entry : adapter.file->entries()) {
    const std::string& key = entry.spec.name;
    const std::string module = module_of(*adapter.file, key);
    if (!module.empty()) {
      modules.insert(module);
    } else if (auto saved = read_saved(*adapter.file, adapter.config, key)) {
      adapter.saved.push_back(std::move(*saved));
    }
  }
  if (modules.empty()) throw DataError(fmt::format("{}: it holds no adapter", adapter.file->path().string()));
  for (const std::string& module : modules) {
    adapter.matrices.push_back(read_matrices(*adapter.file, adapter.config, module));
  }
  unfuse_experts(adapter);
  return adapter;
}

void check_lora_adapter(const LoraAdapter& adapter, const std::map<std::string, Shape>& weights,
                        const std::vector<std::string>& apart) {
  const SafetensorsFile& file = *adapter.file;
  std::set<std::string> present;
  for (const LoraMatrices& matrices : adapter.matrices) {
    present.insert(matrices.module);
    const std::string key_a = key_of(matrices.module, matrices.embedding ? kEmbeddingA : kA);
    const auto found = weights.find(matrices.module);
    if (found == weights.end()) fail(file, key_a, "the base has no such linear: the adapter belongs to another model");
    Shape weight = found->second;
    if (matrices.embedding) std::reverse(weight.begin(), weight.end());
    if (matrices.a.shape[1] != weight.at(1) || matrices.b.shape[0] != weight.at(0)) {
      fail(file, key_a,
           fmt::format("A {} and B {} do not fit the base's weight {}: the adapter belongs to another model",
                       shape_text(matrices.a.shape), shape_text(matrices.b.shape), shape_text(weight)));
    }
  }
  std::vector<std::string> names;
  names.reserve(weights.size());
  for (const auto& [name, shape] : weights) names.push_back(name);
  for (const std::string& module : lora_targets(adapter.config, names, apart)) {
    if (!present.contains(module)) {
      fail(file, key_of(module, kA), "it is missing, though adapter_config.json targets that module");
    }
  }
}

void save_lora_adapter(const fs::path& folder, const LoraConfig& config, const std::vector<LoraMatrices>& matrices,
                       const std::vector<SavedWeight>& saved, const std::optional<AdapterRecord>& record) {
  std::map<std::string, HostTensor> tensors;
  std::set<std::string> last_parts;
  for (const LoraMatrices& pair : matrices) {
    tensors[key_of(pair.module, pair.embedding ? kEmbeddingA : kA)] = pair.a;
    tensors[key_of(pair.module, pair.embedding ? kEmbeddingB : kB)] = pair.b;
    if (pair.magnitude) tensors[key_of(pair.module, kMagnitude)] = *pair.magnitude;
    last_parts.insert(pair.module.substr(pair.module.rfind('.') + 1));
  }
  for (const SavedWeight& weight : saved) tensors[key_of(weight.name, "")] = weight.values;
  StringMap metadata = {{"format", "pt"}};
  if (record) metadata[kRecordKey] = record_text(*record);
  write_safetensors(folder / kAdapterWeightFile, tensors, std::move(metadata));

  LoraConfig written = config;
  if (written.target_modules.all_linear()) written.target_modules.names.assign(last_parts.begin(), last_parts.end());
  std::sort(written.target_modules.names.begin(), written.target_modules.names.end());
  write_file_atomically(folder / kConfigFile, lora_config_text(written));
}

}  // namespace qlora
