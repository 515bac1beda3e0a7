// The use case `qlora merge`: adapters become part of the weights, tensor by tensor, in bounded memory.
#include "qlora/adapters/merge.h"

#include <set>

#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/sub.h>
#include <fmt/format.h>

#include "qlora/app/base_model.h"
#include "qlora/app/commands.h"
#include "qlora/app/cost.h"
#include "qlora/app/output.h"
#include "qlora/core/atomic_file.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/core/progress.h"
#include "qlora/core/signal.h"
#include "qlora/formats/mapped_file.h"
#include "qlora/quant/nf4_serialized.h"
#include "qlora/text/chat_template.h"
#include "qlora/weights/load.h"

namespace qlora {
namespace {

namespace fs = std::filesystem;

struct Source {
  LoraAdapter adapter;
  fs::path folder;
  double weight;
};

at::ScalarType output_dtype(MergeDtype dtype, at::ScalarType base) {
  switch (dtype) {
    case MergeDtype::kBfloat16:
      return at::kBFloat16;
    case MergeDtype::kFloat16:
      return at::kHalf;
    case MergeDtype::kFloat32:
      return at::kFloat;
    default:
      return base;
  }
}

constexpr const char* kRecord = "merge.json";

std::vector<Source> load_sources(const MergeOptions& options, const ModelConfig& model) {
  std::vector<Source> sources;
  for (const WeightedAdapter& a : options.adapter)
    sources.push_back({load_lora_adapter(a.path, model), a.path, a.weight});
  return sources;
}

// Checked twice: by config.json, which needs no weights, and by the weights.
template <class ShapeOf>
void check_sources(const std::vector<Source>& sources, const ModelConfig& config, ShapeOf shape_of) {
  const AdaptableModules modules = adaptable_modules(config);
  std::map<std::string, Shape> shapes;
  for (const std::string& module : modules.all) shapes[module] = shape_of(module + ".weight");
  for (const Source& source : sources) {
    check_lora_adapter(source.adapter, shapes, modules.apart);
    make_training_plan(source.adapter.config, config, 0);  // refuses what no decoder of this config has
    for (const SavedWeight& saved : source.adapter.saved) {
      if (saved.values.shape == shape_of(saved.name)) continue;
      throw DataError(fmt::format("{}: '{}' has shape {}, the base's is {}: it was made for another base",
                                  source.folder.string(), saved.name, shape_text(saved.values.shape),
                                  shape_text(shape_of(saved.name))));
    }
    if (!source.adapter.saved.empty() && (sources.size() > 1 || source.weight != 1.0)) {
      throw UsageError(
          fmt::format("adapter: {} has modules_to_save: it is merged alone, with weight 1", source.folder.string()));
    }
  }
}

// What stands at output_dir is replaced as a whole: only an earlier merge, that nothing is read from now, may go.
void check_output(const fs::path& output, const fs::path& model, const std::vector<Source>& sources) {
  require_folder(output);
  if (!fs::exists(output) || fs::is_empty(output)) return;
  const auto is_output = [&](const fs::path& source) { return fs::exists(source) && fs::equivalent(source, output); };
  const bool is_source = is_output(model) || std::any_of(sources.begin(), sources.end(),
                                                         [&](const Source& s) { return is_output(s.folder); });
  if (is_source)
    throw UsageError(fmt::format("output_dir: {} is what is merged; name another folder", output.string()));
  if (!fs::exists(output / kRecord)) {
    throw UsageError(fmt::format("output_dir: {} holds files and is no earlier merge; name an empty or new folder",
                                 output.string()));
  }
}

int print_plan(const MergeJob& job, const std::vector<Source>& sources, const WeightStore& written) {
  const std::size_t linears = sources.front().adapter.matrices.size(), tensors = written.missing().size();
  const bool dequantized = job.merge.merge_into == MergeBase::kDequantized;
  const Json bytes = {{"output", written.planned_bytes()}};
  print_text(job.common.json ? json_line({{"tensors", tensors},
                                          {"adapted_linears", linears},
                                          {"adapters", sources.size()},
                                          {"merge_into", dequantized ? "dequantized" : "original"},
                                          {"bytes", bytes}})
                             : fmt::format("{} tensors, {} adapted linears of {} adapters\n{}nothing was written\n",
                                           tensors, linears, sources.size(), bytes_text(bytes)));
  return static_cast<int>(ExitCode::kOk);
}

// The type of a checkpoint's weights, by its config.
at::ScalarType stored_dtype(const ModelConfig& config) {
  if (config.dtype == "bfloat16") return at::kBFloat16;
  return config.dtype == "float16" ? at::kHalf : at::kFloat;
}

// The entry of config.json that bitsandbytes and transformers read a checkpoint in NF4 by.
Json nf4_config(bool nested, const char* dtype) {
  return {{"_load_in_4bit", true},
          {"_load_in_8bit", false},
          {"bnb_4bit_compute_dtype", dtype},
          {"bnb_4bit_quant_storage", "uint8"},
          {"bnb_4bit_quant_type", "nf4"},
          {"bnb_4bit_use_double_quant", nested},
          {"llm_int8_enable_fp32_cpu_offload", false},
          {"llm_int8_has_fp16_weight", false},
          {"llm_int8_skip_modules", nullptr},
          {"llm_int8_threshold", 6.0},
          {"load_in_4bit", true},
          {"load_in_8bit", false},
          {"quant_method", "bitsandbytes"}};
}

at::Tensor decoded(const Nf4Tensor& tensor) {
  at::Tensor values = at::empty(tensor.shape, at::kFloat);
  nf4_dequantize(tensor.view(), ElementType::kF32, values.mutable_data_ptr());
  return values;
}

// Of what is written from what was to be written, relative to its norm.
double drift_of(const at::Tensor& written, const at::Tensor& wanted) {
  const double norm = wanted.norm().item<double>();
  return norm == 0.0 ? 0.0 : at::sub(written, wanted).norm().item<double>() / norm;
}

class MergeRun {
 public:
  MergeRun(const MergeJob& job, const fs::path& model, std::vector<Source> sources)
      : job_(job),
        folder_(model),
        find_(finder(folder_)),
        sources_(std::move(sources)),
        nested_(sources_.front().adapter.record ? sources_.front().adapter.record->nested
                                                : job.model.use_bnb_nested_quant) {
    const ModelConfig config = parse_model_config(folder_.config(), (folder_.path() / "config.json").string());
    modules_ = module_names(config);
    tied_ = config.tied_embeddings;
    linears_.insert(modules_.linears.begin(), modules_.linears.end());
    for (const std::string& router : modules_.routers) linears_.erase(router);
    for (const std::string& name : folder_.names()) {
      if (!nf4_is_companion(name)) weights_.push_back(name);
      if (nf4_is_serialized(name, find_)) stored_nf4_ = nf4_stored(name, find_);
    }
    if (stored_nf4_) nested_ = stored_nf4_->nested;
    untied_ = tied_ && (changes(modules_.embedding) || changes(modules_.head));
    if (untied_ && !folder_.contains(modules_.head + ".weight")) weights_.push_back(modules_.head + ".weight");
    check_sources(sources_, config, [&](const std::string& weight) { return spec_of(weight).shape; });
    for (const Source& source : sources_) warn_of_another_base(source.adapter, source.folder.string(), folder_);
  }

  int run() {
    AtomicFolder output(job_.common.output_dir);
    write_weights(output.temporary());
    write_config(output.temporary());
    const fs::path& tokenizer =
        fs::exists(sources_.front().folder / "tokenizer_config.json") ? sources_.front().folder : folder_.path();
    copy_tokenizer(tokenizer, output.temporary(), format_of(load_chat_template(tokenizer).get()));
    if (!fs::exists(output.temporary() / "generation_config.json") &&
        fs::exists(folder_.path() / "generation_config.json")) {
      write_file_atomically(output.temporary() / "generation_config.json",
                            MappedFile(folder_.path() / "generation_config.json").text());
    }
    write_file_atomically(output.temporary() / kRecord, record_.dump(2) + "\n");
    output.commit();
    return print();
  }

 private:
  // Of a checkpoint in NF4 there is no other.
  bool dequantized() const { return job_.merge.merge_into == MergeBase::kDequantized || stored_nf4_; }
  bool quantizes() const { return job_.merge.quantize == MergeQuantize::kNf4; }

  const SavedWeight* saved(const std::string& name) const {
    for (const Source& source : sources_) {
      for (const SavedWeight& weight : source.adapter.saved) {
        if (weight.name == name) return &weight;
      }
    }
    return nullptr;
  }

  // Whether an adapter changes this module's weight.
  bool changes(const std::string& module) const {
    const auto adapts = [&](const LoraMatrices& matrices) { return matrices.module == module; };
    const auto has = [&](const Source& source) {
      return std::any_of(source.adapter.matrices.begin(), source.adapter.matrices.end(), adapts);
    };
    return saved(module + ".weight") != nullptr || std::any_of(sources_.begin(), sources_.end(), has);
  }

  // The tensor that a weight is made from: the embedding's, for a tied head.
  std::string source_of(const std::string& name) const {
    return tied_ && name == modules_.head + ".weight" ? modules_.embedding + ".weight" : name;
  }

  // The weight's own shape and type, however it is stored.
  TensorSpec spec_of(const std::string& weight) const {
    const std::string name = source_of(weight);
    if (nf4_is_serialized(name, find_)) {
      const Nf4Stored stored = nf4_stored(name, find_);
      return {name, stored.dtype, stored.shape};
    }
    const HostTensor tensor = folder_.tensor(name);
    return {name, tensor.type, tensor.shape};
  }

  at::ScalarType dtype_of(const TensorSpec& spec) const {
    return output_dtype(job_.merge.dtype, weight_type({spec.type, {}, {}}, spec.name));
  }

  // The weight that the adapter was trained over: as it is in the file, or what NF4 makes of it.
  at::Tensor base_weight(const std::string& weight, bool linear) const {
    if (const SavedWeight* own = saved(weight)) return to_tensor(own->values, weight);
    const std::string name = source_of(weight);
    if (nf4_is_serialized(name, find_)) return decoded(nf4_parse(name, find_));
    const HostTensor tensor = folder_.tensor(name);
    at::Tensor aligned = to_tensor(tensor, name);
    if (!at::isfinite(aligned).all().item<bool>()) {
      throw DataError(fmt::format("{}: tensor '{}': holds NaN or Inf", folder_.file_of(name).string(), name));
    }
    // A checkpoint in NF4 has this linear in 16 bits: training did not quantize it either.
    if (!linear || !dequantized() || stored_nf4_) return aligned;
    return decoded(nf4_quantize(to_host_tensor(aligned), nested_, name));
  }

  static std::string module_of(const std::string& weight) {
    return weight.ends_with(".weight") ? weight.substr(0, weight.size() - 7) : weight;
  }

  MergedTensor merged(const std::string& name) const {
    const bool linear = linears_.contains(module_of(name));
    const at::Tensor base = base_weight(name, linear);
    const at::ScalarType dtype = dtype_of(spec_of(name));
    if (!linear && !changes(module_of(name))) return {base.to(dtype), 0.0};
    std::vector<MergeInput> inputs;
    for (const Source& source : sources_) inputs.push_back({&source.adapter, source.weight});
    return merge_linear(base, module_of(name), inputs, dtype);
  }

  Nf4Tensor quantized(const std::string& name, const MergedTensor& merged) const {
    return nf4_quantize(to_host_tensor(merged.values.contiguous()), nested_, name);
  }

  // A file's header comes before its bytes, and quant_state is as long as its offset has digits: what is quantized on
  // the way is made twice, so that none of it is kept.
  std::vector<TensorSpec> written_specs() const {
    std::vector<TensorSpec> specs;
    for (const std::string& name : weights_) {
      throw_if_stopped();
      if (quantizes() && linears_.contains(module_of(name))) {
        for (const NamedTensor& part : nf4_serialize(name, quantized(name, merged(name)))) {
          specs.push_back({part.name, part.type, part.shape});
        }
      } else {
        const TensorSpec spec = spec_of(name);
        specs.push_back({name, element_type_of(dtype_of(spec)), spec.shape});
      }
    }
    return specs;
  }

  // Returns the drift. Of what is quantized it is that of what a reader decodes.
  double write_weight(ModelFolderWriter& writer, const std::string& name) const {
    const MergedTensor merged = this->merged(name);
    if (!quantizes() || !linears_.contains(module_of(name))) {
      writer.append(name, to_host_tensor(merged.values.contiguous()).bytes);
      return merged.drift;
    }
    const Nf4Tensor codes = quantized(name, merged);
    for (const NamedTensor& part : nf4_serialize(name, codes)) writer.append(part.name, part.bytes);
    return drift_of(decoded(codes), merged.values.to(at::kFloat));
  }

  void write_weights(const fs::path& output) {
    ModelFolderWriter writer(output, written_specs());
    Progress progress("tensors", static_cast<std::int64_t>(weights_.size()));
    Json drift = Json::object();
    for (const std::string& name : weights_) {
      throw_if_stopped();
      const double own = write_weight(writer, name);
      if (linears_.contains(module_of(name)) || changes(module_of(name))) drift[name] = own;
      largest_drift_ = std::max(largest_drift_, own);
      written_dtype_ = dtype_of(spec_of(name));
      progress.step();
    }
    writer.commit();
    record_ = {{"merge_into", dequantized() ? "dequantized" : "original"},
               {"quant_type", dequantized() ? Json("nf4") : Json()},
               {"nested", dequantized() ? Json(nested_) : Json()},
               {"dtype", dtype_name(written_dtype_)},
               {"quantize", quantizes() ? Json("nf4") : Json()},
               {"base",
                {{"path", folder_.path().string()},
                 {"config", folder_.config_identity()},
                 {"weights", folder_.weights_identity()}}},
               {"adapters", Json::array()},
               {"largest_drift", largest_drift_},
               {"drift", drift}};
    for (const Source& s : sources_) {
      record_["adapters"].push_back(
          {{"path", s.folder.string()}, {"weight", s.weight}, {"identity", adapter_identity(s.folder)}});
    }
  }

  void write_config(const fs::path& output) const {
    Json config = folder_.config();
    if (job_.merge.dtype != MergeDtype::kAuto) {
      config.erase("torch_dtype");
      config["dtype"] = dtype_name(written_dtype_);
    }
    if (untied_) config["tie_word_embeddings"] = false;
    config.erase("quantization_config");
    if (quantizes()) config["quantization_config"] = nf4_config(nested_, dtype_name(written_dtype_));
    write_file_atomically(output / "config.json", config.dump(2) + "\n");
  }

  int print() const {
    const char* base = dequantized() ? "the dequantized" : "the original";
    print_text(job_.common.json
                   ? json_line({{"output_dir", job_.common.output_dir},
                                {"merge_into", record_.at("merge_into")},
                                {"dtype", record_.at("dtype")},
                                {"largest_drift", largest_drift_}})
                   : fmt::format("merged into {} weights, {}\nlargest rounding drift {:.3g} (each tensor's is in "
                                 "merge.json)\nwritten to  {}\n",
                                 base, dtype_name(written_dtype_), largest_drift_, job_.common.output_dir));
    return static_cast<int>(ExitCode::kOk);
  }

  const MergeJob& job_;
  ModelFolder folder_;
  FindTensor find_;
  std::vector<std::string> weights_;     // without the companions of those in NF4
  std::optional<Nf4Stored> stored_nf4_;  // of the base, where it is in NF4
  std::vector<Source> sources_;
  bool nested_;
  ModuleNames modules_;
  std::set<std::string> linears_;  // of the blocks, without routers
  bool tied_ = false, untied_ = false;
  Json record_;
  double largest_drift_ = 0.0;
  at::ScalarType written_dtype_ = at::kFloat;
};

}  // namespace

int run_merge(const MergeJob& job) {
  watch_signals();
  const fs::path model = model_folder_of(job.model);
  const ModelConfig config = read_model_config(model);
  std::vector<Source> sources = load_sources(job.merge, config);
  BaseSettings written;
  written.quantize = job.merge.quantize == MergeQuantize::kNf4;
  written.nested = job.model.use_bnb_nested_quant;
  written.dtype = output_dtype(job.merge.dtype, stored_dtype(config));
  const auto store = planned_store(written);
  const Decoder unfilled(config, store, TrainingPlan{});
  check_sources(sources, config, [&](const std::string& weight) {
    const bool tied_head = config.tied_embeddings && weight == unfilled.modules().head + ".weight";
    return store->member(tied_head ? unfilled.modules().embedding + ".weight" : weight).shape;
  });
  check_output(job.common.output_dir, model, sources);
  if (job.common.dry_run) return print_plan(job, sources, *store);
  fetch_weights(job.model, model);
  return MergeRun(job, model, std::move(sources)).run();
}

}  // namespace qlora
