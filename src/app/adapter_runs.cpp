#include "qlora/app/adapter_runs.h"

#include <algorithm>

#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/nn/kernels.h"
#include "qlora/text/chat_template.h"
#include "qlora/weights/load.h"

namespace qlora {

namespace fs = std::filesystem;

BaseSettings settings_of(const CommonOptions& common, const ModelOptions& model, const ModelConfig& config,
                         const LoraAdapter* adapter) {
  const bool trained_in_4bit = adapter != nullptr && adapter->record && adapter->record->quant_type == "nf4";
  BaseSettings settings;
  settings.device = choose_device(common.device, common.dry_run);
  settings.dtype = choose_dtype(model.dtype, settings.device);
  settings.dequantize_cache_bytes = dequantize_cache_bytes(model, settings.device);
  // Nothing is trained over it: what is decoded once may stay, beside the caches of rows.
  if (settings.device.is_cuda() && model.dequantize_cache == "auto")
    settings.dequantize_cache_bytes = gpu::free_bytes(settings.device) / 2;
  settings.quantize = model.load_in_4bit.value_or(trained_in_4bit);
  const bool open = trained_in_4bit && !common.given.contains("use_bnb_nested_quant");
  settings.nested = open ? adapter->record->nested : model.use_bnb_nested_quant;
  keep_stored_nf4(config, model, settings);
  take_matmul_dtype(config, model, settings);
  return settings;
}

bool same_base(const BaseSettings& a, const BaseSettings& b) {
  return a.quantize == b.quantize && (!a.quantize || a.nested == b.nested);
}

std::string words_for(const BaseSettings& settings) {
  if (!settings.quantize) return "without quantization";
  return settings.nested ? "in 4 bits with double quantization" : "in 4 bits without double quantization";
}

std::string name_of(const fs::path& folder, const std::vector<std::string>& taken) {
  const fs::path whole = fs::absolute(folder).lexically_normal();  // ".", "a/." and "a/" are the folder's name, too
  const fs::path clean = whole.filename().empty() ? whole.parent_path() : whole;
  std::string name = clean.filename().string();
  for (int i = 2; name == "base" || std::find(taken.begin(), taken.end(), name) != taken.end(); ++i)
    name = fmt::format("{}-{}", clean.filename().string(), i);
  return name;
}

DataOptions with_adapters_template(DataOptions options, const std::vector<std::string>& adapters) {
  if (options.chat_template != "auto") return options;
  std::string source;
  for (const fs::path folder : adapters) {
    const auto own = load_chat_template(folder);
    if (own == nullptr || own->source() + own->tool_source() == source) continue;
    if (!source.empty()) {
      throw UsageError(
          fmt::format("adapter: {} was trained with another chat template than {}; take them apart, or name the "
                      "chat_template for all",
                      folder.string(), options.chat_template));
    }
    source = own->source() + own->tool_source();
    options.chat_template = folder.string();
  }
  return options;
}

}  // namespace qlora
