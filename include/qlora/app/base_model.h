// A base model as every command opens it: folder, config, device, and the store that its decoders share.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "qlora/adapters/attach.h"
#include "qlora/app/options.h"
#include "qlora/formats/model_folder.h"
#include "qlora/models/decoder.h"
#include "qlora/text/chat_template.h"

namespace qlora {

// How a base is held.
struct BaseSettings {
  bool quantize = false;  // NF4
  bool nested = true;
  at::Device device = at::kCPU;
  at::ScalarType dtype = at::kFloat;
  std::int64_t dequantize_cache_bytes = 0;
  std::vector<std::string> dense = {};  // WeightPolicy::dense
  bool fp8 = false;                     // WeightPolicy::fp8
};

WeightPolicy policy_of(const BaseSettings& settings);

// What `qlora train` holds its base in. Throws UsageError for a device or dtype that is not there, and for a method
// that needs other weights than a checkpoint in NF4 has.
BaseSettings base_settings(const TrainJob& job, const ModelConfig& model);

// A checkpoint in NF4 is held as it is, whatever `settings` said. Throws UsageError where the command asks for dense
// weights.
void keep_stored_nf4(const ModelConfig& model, const ModelOptions& options, BaseSettings& settings);

// Sets what matmul_dtype asks for, once the rest is settled. Throws UsageError where the base is not in 4 bits or has
// experts, and for a GPU that does not multiply fp8 with a scale for each row.
void take_matmul_dtype(const ModelConfig& model, const ModelOptions& options, BaseSettings& settings);

// How many bytes of dequantized weights may stay, in the type that is computed in.
std::int64_t dequantize_cache_bytes(const ModelOptions& options, at::Device device);

// Complains of float16 over a checkpoint in bfloat16: its range is narrower, and large values become infinite.
std::optional<std::string> dtype_problem(const ModelConfig& config, at::ScalarType dtype);

class BaseModel {
 public:
  // Opens the folder and reads its config; weights come with the first decoder. Throws DataError and UsageError as
  // ModelFolder and parse_model_config.
  BaseModel(const std::filesystem::path& folder, const BaseSettings& settings);

  // A decoder over this base. The first one streams the weights from disk; others share them (but not under
  // plan.full, where every weight is a parameter of its own).
  std::unique_ptr<Decoder> decoder(const TrainingPlan& plan);
  // One that carries this adapter.
  std::unique_ptr<Decoder> decoder(const LoraAdapter& adapter, std::uint64_t seed);

  const ModelFolder& folder() const { return folder_; }
  const ModelConfig& config() const { return config_; }
  const BaseSettings& settings() const { return settings_; }

  // What an adapter trained here notes of its base.
  AdapterRecord record() const;

 private:
  ModelFolder folder_;
  ModelConfig config_;
  BaseSettings settings_;
  std::shared_ptr<WeightStore> store_;
};

// Warns where an adapter, by its own record, was trained on another base than `base`, or records none. `name`: the
// adapter's folder, for the message.
void warn_of_another_base(const LoraAdapter& adapter, const std::string& name, const ModelFolder& base);

// As config.json names it.
const char* dtype_name(at::ScalarType dtype);

// The folder that model_name_or_path means: itself, or that of a model of the Hub in the cache, where config, tokenizer
// and template are downloaded if need be. Throws UsageError for no name, DataError for a folder that is not there, and
// as HubRepository.
std::filesystem::path model_folder_of(const ModelOptions& options);

// The config.json of a model's folder, which needs no weights. Throws DataError where it is missing or not understood.
ModelConfig read_model_config(const std::filesystem::path& model);

// Downloads the weights of a model of the Hub into the folder that model_folder_of() gave; nothing to do for others.
void fetch_weights(const ModelOptions& options, const std::filesystem::path& folder);

// How a model is talked to, as far as it differs from what its folder says.
struct ChatFormat {
  std::optional<std::string> chat_template;  // its source
  std::string tool_template;                 // of the one for conversations with tools; "" for the same
  std::vector<std::int32_t> stop_ids;        // where generation stops; empty: as generation_config.json has it
};

// Of a template and the one that it has for tools; null: none.
ChatFormat format_of(const ChatTemplate* chat_template);

// Copies what a tokenizer and its template need from a model folder. The template's source is written both as
// chat_template.jinja and into tokenizer_config.json (newer readers take the file, older ones know the field alone),
// the one for tools as additional_chat_templates/tool_use.jinja, stop_ids as eos_token_id into generation_config.json.
void copy_tokenizer(const std::filesystem::path& from, const std::filesystem::path& to, const ChatFormat& format);

}  // namespace qlora
