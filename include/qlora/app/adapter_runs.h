// Adapters over one base: what eval and chat share.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "qlora/app/base_model.h"
#include "qlora/app/options.h"

namespace qlora {

// The base's settings for one adapter (nullptr: none): as the checkpoint is where it is in NF4, else as the command
// says, else as the adapter was trained, else dense.
BaseSettings settings_of(const CommonOptions& common, const ModelOptions& model, const ModelConfig& config,
                         const LoraAdapter* adapter);

bool same_base(const BaseSettings& a, const BaseSettings& b);

// "in 4 bits with double quantization", ...
std::string words_for(const BaseSettings& settings);

// The folder's name, with -2, -3, ... behind it where `taken` has it already; "base" is the bare base's alone.
std::string name_of(const std::filesystem::path& folder, const std::vector<std::string>& taken);

// What text is rendered with. auto: as the adapters were trained, where they brought a template along. Throws
// UsageError where two brought different ones.
DataOptions with_adapters_template(DataOptions options, const std::vector<std::string>& adapters);

}  // namespace qlora
