// LoRA adapters on disk in PEFT's layout: adapter_config.json and adapter_model.safetensors.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "qlora/adapters/peft_config.h"
#include "qlora/core/host_tensor.h"
#include "qlora/formats/safetensors.h"

namespace qlora {

inline constexpr const char* kAdapterWeightFile = "adapter_model.safetensors";

// What this program notes in the weight file's metadata (key "qlora"), where PEFT does not look: the base that the
// adapter was trained on, and how it was quantized then.
struct AdapterRecord {
  std::string quant_type;    // "nf4", or "none"
  bool nested = false;       // double quantization
  std::string dtype;         // of the products: "float32", "bfloat16", "float16"
  std::string base_config;   // ModelFolder::config_identity()
  std::string base_weights;  // ModelFolder::weights_identity()
};

// W' = W + scale * B A for the linear `module` ("model.layers.0.self_attn.q_proj"); with a magnitude m (DoRA) each row
// of that divided by its norm, times m. An embedding counts as the linear that its table is the transpose of.
struct LoraMatrices {
  std::string module;
  HostTensor a;                              // [r, in]
  HostTensor b;                              // [out, r]
  std::optional<HostTensor> magnitude = {};  // [out]
  bool embedding = false;
};

// A weight that is trained whole.
struct SavedWeight {
  std::string name;  // as in the base's checkpoint: "lm_head.weight"
  HostTensor values;
};

struct LoraAdapter {
  LoraConfig config;
  std::optional<AdapterRecord> record;
  std::vector<LoraMatrices> matrices;                              // by name; views into `file`
  std::vector<SavedWeight> saved;                                  // of modules_to_save; likewise
  std::shared_ptr<const SafetensorsFile> file;                     // keeps them alive
  std::vector<std::shared_ptr<const std::vector<std::byte>>> own;  // and those that lie otherwise in the file
  bool fused_experts = false;  // the file has one A and B for all experts of a layer
};

// Reads a folder. Adapters on the fused experts of a layer (target_parameters gate_up_proj, down_proj) become adapters
// on each expert's linears, "model.layers.0.mlp.experts.3.gate_proj". Throws DataError naming the file and the tensor:
// a missing or malformed file, A without B or B without A, shapes that contradict each other or the config's rank,
// types other than F32, F16 and BF16, NaN and Inf, pickled weights (refused unopened); UsageError for what
// parse_lora_config refuses, and for tensors of such features.
LoraAdapter load_lora_adapter(const std::filesystem::path& folder);

// SHA-256 of an adapter folder's config and weights, in hexadecimal. Throws DataError for a file that cannot be read.
std::string adapter_identity(const std::filesystem::path& folder);

// Takes the matrices of fused experts apart, and says so in `config`. For load_lora_adapter().
void unfuse_experts(LoraAdapter& adapter);

// Checks the adapter against a base: `weights` maps the names of the modules that may carry an adapter to the shapes of
// their weights. Throws DataError naming the module that the base lacks or has in another shape, or that the config
// targets and the adapter lacks.
void check_lora_adapter(const LoraAdapter& adapter, const std::map<std::string, Shape>& weights,
                        const std::vector<std::string>& apart);

// Writes both files (weights first, each atomically) into the folder, which is made where it is missing. target_modules
// that mean all linears are written as a list: `matrices` name them.
void save_lora_adapter(const std::filesystem::path& folder, const LoraConfig& config,
                       const std::vector<LoraMatrices>& matrices, const std::vector<SavedWeight>& saved,
                       const std::optional<AdapterRecord>& record);

}  // namespace qlora
