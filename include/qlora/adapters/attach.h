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

// Which linears of `model` carry an adapter, by rank and scale. Throws UsageError where none does.
TrainingPlan make_training_plan(const LoraConfig& config, const ModelConfig& model, std::uint64_t seed);

// Copies an adapter's A and B into the decoder's parameters. Throws DataError naming the module that one of them lacks
// or has in another shape.
void put_adapter(const LoraAdapter& adapter, Decoder& decoder);

// Writes adapter_config.json and adapter_model.safetensors (float32) of the decoder's adapters.
void save_adapter(Decoder& decoder, const LoraConfig& config, const std::optional<AdapterRecord>& record,
                  const std::filesystem::path& folder);

}  // namespace qlora
