// Between adapters on disk and adapters in a decoder.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "qlora/adapters/options.h"
#include "qlora/adapters/peft.h"
#include "qlora/models/decoder.h"

namespace qlora {

// What the config keys ask for, as PEFT would record it.
LoraConfig make_lora_config(const AdapterOptions& options, const std::string& base_model);

// The modules that can carry an adapter: the embedding, the linears, the output head. `apart`: those of them that
// all-linear leaves out.
struct AdaptableModules {
  std::vector<std::string> all, apart;
};
AdaptableModules adaptable_modules(const ModelConfig& model);

// load_lora_adapter(), with the modules' names as this model's checkpoint has them.
LoraAdapter load_lora_adapter(const std::filesystem::path& folder, const ModelConfig& model);

// Whether linears of experts or their routers carry adapters. Throws UsageError for such that PEFT, over transformers 5
// which fuses experts, could not read: with dropout, DoRA or rank-stabilized scales, with ranks of their own, on some
// experts alone, or on one of gate and up alone; and for routers trained whole whose names it has otherwise.
bool check_expert_adapters(const LoraConfig& config, const ModelConfig& model);

// Which modules of `model` carry an adapter, by rank and scale, and which are trained whole. Throws UsageError where
// none carries one, and for a name of modules_to_save that is no embedding, norm or output head.
TrainingPlan make_training_plan(const LoraConfig& config, const ModelConfig& model, std::uint64_t seed);

// Copies an adapter's A, B, magnitudes and saved weights into the decoder's parameters. Throws DataError naming the
// module that one of them lacks or has in another shape.
void put_adapter(const LoraAdapter& adapter, Decoder& decoder);

// Writes adapter_config.json and adapter_model.safetensors (float32) of the decoder's adapters.
void save_adapter(Decoder& decoder, const LoraConfig& config, const std::optional<AdapterRecord>& record,
                  const std::filesystem::path& folder);

}  // namespace qlora
