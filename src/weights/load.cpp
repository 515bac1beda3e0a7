#include "qlora/weights/load.h"

#include <chrono>
#include <set>

#include <ATen/Context.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/nn/kernels.h"
#include "qlora/weights/upload.h"

namespace qlora {
namespace {

// Tensors that older checkpoints carry and that follow from config.json.
bool is_derived(const std::string& name) {
  return name.ends_with("rotary_emb.inv_freq") || name.ends_with(".masked_bias");
}

std::string shortened(const std::vector<std::string>& names) {
  constexpr std::size_t kShown = 5;
  std::vector<std::string> shown(names.begin(),
                                 names.begin() + static_cast<std::ptrdiff_t>(std::min(kShown, names.size())));
  std::string text = fmt::format("{}", fmt::join(shown, ", "));
  return names.size() > kShown ? text + fmt::format(" and {} more", names.size() - kShown) : text;
}

// A weight and what belongs to it, from the files to where the decoder holds it.
void load_weight(const ModelFolder& folder, const std::string& name, Decoder& decoder, Uploader& upload) {
  const FindTensor find = finder(folder);
  const bool announced = decoder.config().stored_nf4.has_value();
  if (nf4_is_serialized(name, find)) {
    if (!announced)
      throw DataError(fmt::format("tensor '{}': is quantized, but config.json has no quantization_config", name));
    return decoder.put(name, nf4_parse(name, find));
  }
  if (announced && decoder.store().has(name) && decoder.store().member(name).quantize) {
    throw DataError(fmt::format(
        "tensor '{}': is not quantized, though config.json announces NF4 and llm_int8_skip_modules does not name it",
        name));
  }
  decoder.put(name, upload(folder.tensor(name), name));
}

}  // namespace

at::Device choose_device(const std::string& name, bool to_plan) {
  if (name == "auto") return at::hasCUDA() ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU);
  if (name == "cpu") return at::Device(at::kCPU);
  const std::size_t count = at::hasCUDA() ? at::detail::getCUDAHooks().deviceCount() : 0;
  const at::Device device = name == "cuda" ? at::Device(at::kCUDA, 0) : at::Device(name);
  const bool has_kernels = gpu::serves(device, at::kFloat);
  if (static_cast<std::size_t>(device.index()) >= count && !(to_plan && has_kernels)) {
    throw UsageError(fmt::format("device {}: this machine has {} CUDA device{} that this build can use", name, count,
                                 count == 1 ? "" : "s"));
  }
  return device;
}

at::ScalarType choose_dtype(ComputeDtype dtype, at::Device device) {
  switch (dtype) {
    case ComputeDtype::kBfloat16:
      return at::kBFloat16;
    case ComputeDtype::kFloat32:
      return at::kFloat;
    case ComputeDtype::kFloat16:
      if (device.is_cpu()) throw UsageError("dtype float16 needs a GPU; on the CPU take float32 or bfloat16");
      return at::kHalf;
    default:
      return device.is_cpu() ? at::kFloat : at::kBFloat16;
  }
}

FindTensor finder(const ModelFolder& folder) {
  return [&folder](const std::string& name) {
    return folder.contains(name) ? std::optional(folder.tensor(name)) : std::nullopt;
  };
}

void load_weights(const ModelFolder& folder, Decoder& decoder) {
  const std::vector<std::string> lacking = decoder.missing();
  std::set<std::string> wanted(lacking.begin(), lacking.end());
  // Tied, the head has no tensor of its own.
  if (decoder.config().tied_embeddings && wanted.contains(decoder.modules().head + ".weight")) {
    wanted.insert(decoder.modules().embedding + ".weight");
  }
  std::vector<std::string> unknown;
  Uploader upload(decoder.device());
  const auto start = std::chrono::steady_clock::now();
  for (const std::string& name : folder.names()) {
    if (nf4_is_companion(name)) continue;
    if (!wanted.contains(name)) {
      if (decoder.wants(name)) continue;  // another decoder over the same store has read it
      const bool tied_head = name == "lm_head.weight" && decoder.config().tied_embeddings;
      if (!is_derived(name) && !tied_head) unknown.push_back(name);
      continue;
    }
    try {
      load_weight(folder, name, decoder, upload);
    } catch (const DataError& error) {
      throw DataError(fmt::format("{}: {}", folder.file_of(name).string(), error.what()));
    }
  }
  const std::vector<std::string> missing = decoder.missing();
  if (!missing.empty()) {
    throw DataError(fmt::format("{}: {} weights that config.json calls for are missing: {}", folder.path().string(),
                                missing.size(), shortened(missing)));
  }
  if (!unknown.empty()) {
    log_warning("{}: {} tensors are not part of a {} model and are left out: {}", folder.path().string(),
                unknown.size(), decoder.config().model_type, shortened(unknown));
  }
  decoder.parameters().refresh_compute();
  log_info("read {:.2f} GiB of weights in {:.1f} s", static_cast<double>(folder.total_bytes()) / (1 << 30),
           std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
}

}  // namespace qlora
