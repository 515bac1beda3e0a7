// The use case `qlora merge`: adapters become part of the weights, tensor by tensor, in bounded memory.
#include "qlora/adapters/merge.h"

#include <cstdio>
#include <set>

#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <fmt/format.h>

#include "qlora/app/base_model.h"
#include "qlora/app/commands.h"
#include "qlora/core/atomic_file.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/core/progress.h"
#include "qlora/core/signal.h"
#include "qlora/formats/mapped_file.h"
#include "qlora/quant/nf4.h"
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

std::vector<Source> load_sources(const MergeOptions& options) {
  std::vector<Source> sources;
  for (const WeightedAdapter& a : options.adapter) sources.push_back({load_lora_adapter(a.path), a.path, a.weight});
  return sources;
}

// Checked twice: by config.json, which needs no weights, and by the weights.
template <class ShapeOf>
void check_sources(const std::vector<Source>& sources, const std::vector<std::string>& linears, ShapeOf shape_of) {
  std::map<std::string, Shape> shapes;
  for (const std::string& linear : linears) shapes[linear] = shape_of(linear + ".weight");
  for (const Source& source : sources) check_lora_adapter(source.adapter, shapes, "lm_head");
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

int print_plan(const MergeJob& job, const std::vector<Source>& sources, std::size_t tensors) {
  const std::size_t linears = sources.front().adapter.matrices.size();
  if (job.common.json) {
    const bool dequantized = job.merge.merge_into == MergeBase::kDequantized;
    std::printf("%s\n", Json{{"tensors", tensors},
                             {"adapted_linears", linears},
                             {"adapters", sources.size()},
                             {"merge_into", dequantized ? "dequantized" : "original"}}
                            .dump()
                            .c_str());
  } else {
    std::printf("%zu tensors, %zu adapted linears of %zu adapters; nothing was written\n", tensors, linears,
                sources.size());
  }
  return 0;
}

class MergeRun {
 public:
  MergeRun(const MergeJob& job, const fs::path& model, std::vector<Source> sources)
      : job_(job),
        folder_(model),
        sources_(std::move(sources)),
        nested_(sources_.front().adapter.record ? sources_.front().adapter.record->nested
                                                : job.model.use_bnb_nested_quant) {
    const std::vector<std::string> linears =
        linear_names(parse_model_config(folder_.config(), (folder_.path() / "config.json").string()));
    linears_.insert(linears.begin(), linears.end());
    check_sources(sources_, linears, [&](const std::string& weight) { return folder_.tensor(weight).shape; });
    for (const Source& source : sources_) warn_of_another_base(source.adapter, source.folder.string(), folder_);
  }

  int run() {
    AtomicFolder output(job_.common.output_dir);
    write_weights(output.temporary());
    write_config(output.temporary());
    const fs::path& tokenizer =
        fs::exists(sources_.front().folder / "tokenizer_config.json") ? sources_.front().folder : folder_.path();
    const auto tmpl = load_chat_template(tokenizer);
    copy_tokenizer(tokenizer, output.temporary(), {tmpl ? std::optional(tmpl->source()) : std::nullopt, {}});
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
  bool dequantized() const { return job_.merge.merge_into == MergeBase::kDequantized; }

  at::ScalarType dtype_of(const HostTensor& tensor, const std::string& name) const {
    return output_dtype(job_.merge.dtype, to_tensor({tensor.type, {0}, {}}, name).scalar_type());
  }

  // The weight that the adapter was trained over: as it is in the file, or what NF4 makes of it.
  at::Tensor base_weight(const std::string& name, bool linear) const {
    const HostTensor tensor = folder_.tensor(name);
    const at::Tensor aligned = to_tensor(tensor, name);
    if (!at::isfinite(aligned).all().item<bool>()) {
      throw DataError(fmt::format("{}: tensor '{}': holds NaN or Inf", folder_.file_of(name).string(), name));
    }
    if (!linear || !dequantized()) return aligned;
    at::Tensor values = at::empty(tensor.shape, at::kFloat);
    nf4_dequantize(nf4_quantize(to_host_tensor(aligned), nested_, name).view(), ElementType::kF32,
                   values.mutable_data_ptr());
    return values;
  }

  void write_weights(const fs::path& output) {
    std::vector<TensorSpec> specs;
    for (const std::string& name : folder_.names()) {
      const HostTensor tensor = folder_.tensor(name);
      specs.push_back({name, to_host_tensor(at::empty({0}, dtype_of(tensor, name))).type, tensor.shape});
    }
    ModelFolderWriter writer(output, specs);
    Progress progress("tensors", static_cast<std::int64_t>(specs.size()));
    Json drift = Json::object();
    std::vector<MergeInput> inputs;
    for (const Source& source : sources_) inputs.push_back({&source.adapter, source.weight});
    for (const std::string& name : folder_.names()) {
      throw_if_stopped();
      const std::string module = name.ends_with(".weight") ? name.substr(0, name.size() - 7) : name;
      const bool linear = linears_.contains(module);
      const at::Tensor base = base_weight(name, linear);
      const at::ScalarType dtype = dtype_of(folder_.tensor(name), name);
      const MergedTensor merged =
          linear ? merge_linear(base, module, inputs, dtype) : MergedTensor{base.to(dtype), 0.0};
      if (linear) drift[name] = merged.drift;
      largest_drift_ = std::max(largest_drift_, merged.drift);
      writer.append(name, to_host_tensor(merged.values.contiguous()).bytes);
      written_dtype_ = dtype;
      progress.step();
    }
    writer.commit();
    record_ = {{"merge_into", dequantized() ? "dequantized" : "original"},
               {"quant_type", dequantized() ? Json("nf4") : Json()},
               {"nested", dequantized() ? Json(nested_) : Json()},
               {"dtype", dtype_name(written_dtype_)},
               {"base",
                {{"path", folder_.path().string()},
                 {"config", folder_.config_identity()},
                 {"weights", folder_.weights_identity()}}},
               {"adapters", Json::array()},
               {"largest_drift", largest_drift_},
               {"drift", drift}};
    for (const Source& s : sources_) record_["adapters"].push_back({{"path", s.folder.string()}, {"weight", s.weight}});
  }

  void write_config(const fs::path& output) const {
    Json config = folder_.config();
    if (job_.merge.dtype != MergeDtype::kAuto) {
      config.erase("torch_dtype");
      config["dtype"] = dtype_name(written_dtype_);
    }
    write_file_atomically(output / "config.json", config.dump(2) + "\n");
  }

  int print() const {
    if (job_.common.json) {
      std::printf("%s\n", Json{{"output_dir", job_.common.output_dir},
                               {"merge_into", record_.at("merge_into")},
                               {"dtype", record_.at("dtype")},
                               {"largest_drift", largest_drift_}}
                              .dump()
                              .c_str());
    } else {
      std::printf(
          "merged into %s weights, %s\nlargest rounding drift %.3g (each tensor's is in merge.json)\nwritten to  %s\n",
          dequantized() ? "the dequantized" : "the original", dtype_name(written_dtype_), largest_drift_,
          job_.common.output_dir.c_str());
    }
    return 0;
  }

  const MergeJob& job_;
  ModelFolder folder_;
  std::vector<Source> sources_;
  bool nested_;
  std::set<std::string> linears_;
  Json record_;
  double largest_drift_ = 0.0;
  at::ScalarType written_dtype_ = at::kFloat;
};

}  // namespace

int run_merge(const MergeJob& job) {
  watch_signals();
  const fs::path model = model_folder_of(job.model);
  const ModelConfig config = read_model_config(model);
  std::vector<Source> sources = load_sources(job.merge);
  const auto store = std::make_shared<WeightStore>(at::kCPU, at::kFloat, WeightPolicy{.planned = true});
  const Decoder unfilled(config, store, TrainingPlan{});
  check_sources(sources, linear_names(config), [&](const std::string& weight) { return store->member(weight).shape; });
  check_output(job.common.output_dir, model, sources);
  if (job.common.dry_run) return print_plan(job, sources, store->missing().size());
  fetch_weights(job.model, model);
  return MergeRun(job, model, std::move(sources)).run();
}

}  // namespace qlora
