#include "qlora/app/base_model.h"

#include <fmt/format.h>

#include "qlora/core/atomic_file.h"
#include "qlora/core/error.h"
#include "qlora/core/hub_name.h"
#include "qlora/core/json_edit.h"
#include "qlora/core/log.h"
#include "qlora/formats/mapped_file.h"
#include "qlora/hub/repository.h"
#include "qlora/nn/kernels.h"
#include "qlora/weights/load.h"

namespace qlora {
namespace {

namespace fs = std::filesystem;

}  // namespace

WeightPolicy policy_of(const BaseSettings& settings) {
  return {settings.quantize, settings.nested, settings.dequantize_cache_bytes, settings.dense, settings.fp8};
}

BaseSettings base_settings(const TrainJob& job, const ModelConfig& model) {
  const at::Device device = choose_device(job.common.device, job.common.dry_run);
  BaseSettings settings{job.model.method == Method::kQlora, job.model.use_bnb_nested_quant, device,
                        choose_dtype(job.model.dtype, device), dequantize_cache_bytes(job.model, device)};
  if (model.stored_nf4 && job.model.method != Method::kQlora) {
    throw UsageError(
        "method: the checkpoint's weights are NF4, which only qlora trains over; take it, or the 16-bit "
        "original");
  }
  keep_stored_nf4(model, job.model, settings);
  take_matmul_dtype(model, job.model, settings);
  if (settings.fp8 && job.adapter.use_dora) {
    throw UsageError("matmul_dtype: fp8 does not go with use_dora, which takes the norms of the weights as they are");
  }
  return settings;
}

void take_matmul_dtype(const ModelConfig& model, const ModelOptions& options, BaseSettings& settings) {
  settings.fp8 = options.matmul_dtype == MatmulDtype::kFp8;
  if (!settings.fp8) return;
  if (!settings.quantize) {
    throw UsageError("matmul_dtype: fp8 is for a base in 4 bits (method: qlora; load_in_4bit: true in eval and chat)");
  }
  if (model.experts > 0) throw UsageError("matmul_dtype: fp8 is not built for a model with experts; leave it at auto");
  if (settings.device.is_cuda() && !gpu::multiplies_fp8(settings.device)) {
    throw UsageError("matmul_dtype: fp8 needs a GPU of compute capability 9.0 (H100, H200); leave it at auto");
  }
}

void keep_stored_nf4(const ModelConfig& model, const ModelOptions& options, BaseSettings& settings) {
  if (!model.stored_nf4) return;
  if (!options.load_in_4bit.value_or(true)) {
    throw UsageError("load_in_4bit: false contradicts the checkpoint, whose weights are NF4; take the 16-bit original");
  }
  settings.quantize = true;
  settings.nested = model.stored_nf4->nested;
  settings.dense = model.stored_nf4->dense;
}

// auto: on the CPU what is dequantized once stays: memory is the machine's, and products dominate small models.
std::int64_t dequantize_cache_bytes(const ModelOptions& options, at::Device device) {
  constexpr double kGib = 1024.0 * 1024.0 * 1024.0;
  if (options.dequantize_cache == "off") return 0;
  if (options.dequantize_cache == "auto") return device.is_cpu() ? std::int64_t{4} << 30 : 0;
  return static_cast<std::int64_t>(std::stod(options.dequantize_cache) * kGib);
}

std::optional<std::string> dtype_problem(const ModelConfig& config, at::ScalarType dtype) {
  if (config.dtype != "bfloat16" || dtype != at::kHalf) return std::nullopt;
  return "dtype: the checkpoint is in bfloat16, whose range float16 does not have: values above 65504 become infinite; "
         "prefer dtype: bfloat16";
}

BaseModel::BaseModel(const fs::path& folder, const BaseSettings& settings)
    : folder_(folder),
      config_(parse_model_config(folder_.config(), (folder / "config.json").string())),
      settings_(settings),
      store_(std::make_shared<WeightStore>(settings.device, settings.dtype, policy_of(settings))) {
  if (const auto problem = dtype_problem(config_, settings.dtype)) log_warning("{}", *problem);
}

std::unique_ptr<Decoder> BaseModel::decoder(const TrainingPlan& plan) {
  auto decoder = std::make_unique<Decoder>(config_, store_, plan);
  if (!decoder->missing().empty()) load_weights(folder_, *decoder);
  return decoder;
}

std::unique_ptr<Decoder> BaseModel::decoder(const LoraAdapter& adapter, std::uint64_t seed) {
  auto decoder = this->decoder(make_training_plan(adapter.config, config_, seed));
  put_adapter(adapter, *decoder);
  return decoder;
}

AdapterRecord BaseModel::record() const {
  return {settings_.quantize ? "nf4" : "none", settings_.nested, dtype_name(settings_.dtype), folder_.config_identity(),
          folder_.weights_identity()};
}

void warn_of_another_base(const LoraAdapter& adapter, const std::string& name, const ModelFolder& base) {
  if (!adapter.record) {
    log_warning("{}: holds no record of its base and quantization; settings are taken from the command", name);
  } else if (adapter.record->base_weights != base.weights_identity()) {
    log_warning("{}: was trained on another base than {}: the weights differ", name, base.path().string());
  }
}

const char* dtype_name(at::ScalarType dtype) {
  switch (dtype) {
    case at::kBFloat16:
      return "bfloat16";
    case at::kHalf:
      return "float16";
    case at::kDouble:
      return "float64";
    default:
      return "float32";
  }
}

fs::path model_folder_of(const ModelOptions& options) {
  if (options.model_name_or_path.empty()) throw UsageError("model_name_or_path: name the model's folder");
  const std::string& name = options.model_name_or_path;
  if (fs::is_directory(name)) return name;
  if (names_hub_repository(name)) {
    try {
      return fetch_model(name, options.model_revision, /*weights=*/false);
    } catch (const NetworkError& error) {
      throw NetworkError(
          fmt::format("{} (there is no folder {} here, so it was looked for on the Hub)", error.what(), name));
    }
  }
  throw DataError(fmt::format("model_name_or_path: {} is no folder{}", name,
                              is_hub_name(name) ? fmt::format(" (and as a folder {} is here, no model of the Hub)",
                                                              fs::path(name).parent_path().string())
                                                : ""));
}

ModelConfig read_model_config(const fs::path& model) {
  const fs::path path = model / "config.json";
  if (!fs::exists(path)) throw DataError(fmt::format("{}: is missing", path.string()));
  return parse_model_config(read_json(path), path.string());
}

void fetch_weights(const ModelOptions& options, const fs::path& folder) {
  if (folder == options.model_name_or_path) return;
  // The commit that the folder is named after: the revision may have moved on.
  fetch_model(options.model_name_or_path, folder.filename().string(), /*weights=*/true);
}

ChatFormat format_of(const ChatTemplate* chat_template) {
  ChatFormat format;
  if (chat_template == nullptr) return format;
  format.chat_template = chat_template->source();
  format.tool_template = chat_template->tool_source();
  return format;
}

void copy_tokenizer(const fs::path& from, const fs::path& to, const ChatFormat& format) {
  for (const char* name : {"tokenizer.json", "tokenizer.model", "tekken.json", "qwen.tiktoken",
                           "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"}) {
    if (fs::exists(from / name)) write_file_atomically(to / name, MappedFile(from / name).text());
  }
  const auto copy_with = [&](const char* name, const char* key, const Json& value) {
    const bool exists = fs::exists(from / name);
    if (!exists && value.is_null()) return;
    const std::string text(exists ? MappedFile(from / name).text() : "{}\n");
    write_file_atomically(to / name, value.is_null() ? text : with_member(text, key, value, (from / name).string()));
  };
  if (format.chat_template) write_file_atomically(to / "chat_template.jinja", *format.chat_template);
  if (!format.tool_template.empty()) {
    write_file_atomically(to / kMoreTemplates / kToolTemplate, format.tool_template);
  }
  copy_with("tokenizer_config.json", "chat_template", format.chat_template ? Json(*format.chat_template) : Json());
  copy_with("generation_config.json", "eos_token_id", format.stop_ids.empty() ? Json() : Json(format.stop_ids));
}

}  // namespace qlora
